"""Periodic: what an event loop does from time to time, in small steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final


class Periodic:
    """A Source that begins some work every so many seconds, and does a step of it at each turn until it has ended."""

    descriptors: Final[list[int]] = []
    """It waits for none."""

    def __init__(
        self, seconds: float, work: Callable[[], Iterator[object]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """work: begins anew, and returns its steps. It begins for the first time after seconds, by the loop's clock."""
        self._seconds = seconds
        self._work = work
        self._clock = clock
        self._due = clock() + seconds
        self._steps: Iterator[object] | None = None

    def ready(self, fd: int) -> None:
        """Nothing is ever readable here."""

    @property
    def next_event_time(self) -> float:
        """When flush_events() has a step to do."""
        return self._due

    def flush_events(self) -> None:
        """Do a step, if it is time for one."""
        if self._clock() < self._due:
            return
        if self._steps is None:
            self._steps = self._work()
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            self._due = self._clock() + self._seconds
