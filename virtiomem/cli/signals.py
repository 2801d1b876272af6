"""Signals that end a program which runs until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from virtiomem.serving import EventLoop


@contextmanager
def ending(loop: EventLoop) -> Iterator[list[str]]:
    """SIGTERM and SIGINT end the loop; the last of the list says what did."""
    reasons = ["the stop command"]

    def end(number: int, _: object) -> None:
        reasons.append(signal.Signals(number).name)
        loop.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reasons
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
