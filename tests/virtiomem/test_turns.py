"""Turns: who maps much lets others in, in the order in which they have come."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pytest

from virtiomem.mapping.turns import Turns


def test_who_has_had_a_turn_lets_the_other_in() -> None:
    turns, order = Turns(), list[int]()
    barrier = threading.Barrier(2, timeout=60)

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(100):
            with turns.turn():
                order.append(number)
                # As a call of the kernel's, which others run beside.
                time.sleep(0.001)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, number) for number in range(2)]:
            done.result()
    # But for who is there first, and last. A lock lets one have nearly all of its turns before the other.
    assert sum(1 for _ in groupby(order)) > 100


def test_who_is_interrupted_while_waiting_keeps_nobody_waiting() -> None:
    turns = Turns()

    def fail() -> None:
        with turns.turn():
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fail()
    with turns.turn():
        pass
