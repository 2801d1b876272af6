"""Turns: threads with much to do let each other in."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One thread at a time has its turn, in the order in which they have come.

    A lock goes to whoever is fastest, and that is the thread that has just given it back: one that takes it again and
    again keeps all others out until it has no more work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts as long as the block. Not to be asked for by who has it."""
        place = self._queue()
        if place is not None:
            try:
                place.acquire()
            except BaseException:
                self._leave(place)
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _queue(self) -> threading.Lock | None:
        """A place in the queue, which is released when its turn has come; None if it has come already."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return None
            place = threading.Lock()
            place.acquire()
            self._waiting.append(place)
            return place

    def _leave(self, place: threading.Lock) -> None:
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        # Its turn had come.
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
