"""Turns: threads with much to do let each other in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Threads have their turns one after the other, in the order in which they have come.

    A lock goes to whoever is fastest, and that is the thread that has just given it back: one that takes it again and
    again keeps all others out until it has no more work. This is for the order alone, and excludes nobody: when a
    signal ends the waiting of one, the next one's turn comes early.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The end of the last turn that was asked for: locked until then.
        self._last = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts as long as the block. Not to be asked for by who has it."""
        end = threading.Lock()
        end.acquire()
        try:
            with self._lock:
                before, self._last = self._last, end
            before.acquire()
            yield
        finally:
            end.release()
