"""Ctrl-C while memory is mapped and unmapped: nothing stays that nobody knows of."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

from pyvfio import Kernel, Memory, StillMapped
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE
from tests.support.thorough import is_thorough

PAGE = 4096
SIZE = 4 * MEBIBYTE
SIGNALS = 40 if is_thorough() else 10


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, as the usual handler; a simulated kernel is let finish first, as a real one is."""
    place = frame
    while place is not None:
        if "/pyvfio/sim/" in place.f_code.co_filename:
            signal.setitimer(signal.ITIMER_REAL, 0.0001)
            return
        place = place.f_back
    signal.default_int_handler(number, frame)


def test_a_signal_at_any_moment(space: Space, memory: Memory, mode: Mode, kernel: Kernel) -> None:
    before = signal.signal(signal.SIGALRM, interrupt)
    left, charged = space.mappings_left, mode.charged(kernel)
    try:
        for step in range(SIGNALS):
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.0007 * step)
                for _ in range(1_000_000):
                    space.map_dma(IOVA, memory, 0, SIZE, granularity=PAGE)
                    space.unmap_dma(IOVA, SIZE)
            if space.mappings():
                offset = space.mappings()[0].offset
                with suppress(StillMapped):
                    memory.discard(offset, PAGE)
                    raise AssertionError("discarded what may be mapped")
            space.unmap_all()
            assert (space.mappings(), space.unconfirmed()) == ((), ())
            assert (space.mappings_left, mode.charged(kernel)) == (left, charged)
    finally:
        signal.signal(signal.SIGALRM, before)
