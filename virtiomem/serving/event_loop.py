"""EventLoop: serves any number of sockets in one thread: vhost-user devices, a control socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pyvfio.kernel import EventFd, Kernel, LinuxKernel
from pyvfio.resource import Resource


class Source(Protocol):
    """Something to be served. Raises nothing that whoever is at the other end could cause."""

    @property
    def descriptors(self) -> list[int]:
        """What to call ready() for when it is readable; others from one turn to the next."""

    def ready(self, fd: int) -> None:
        """Do what is there to do, without waiting."""

    @property
    def next_event_time(self) -> float | None:
        """When, by the loop's clock, to call flush_events() at the latest; None if nothing waits."""

    def flush_events(self) -> None:
        """Do what is due. Called after every turn."""


class EventLoop(Resource):
    """run() serves until stop(). The sources stay the caller's."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: the one of the sources."""
        self._sources = [*sources]
        self._kernel = kernel or LinuxKernel()
        self._clock = clock
        self._stop = EventFd(self._kernel, "stop")
        super().__init__()

    def add(self, source: Source) -> None:
        """Serve this one too. Not while run() does, but from its own turns."""
        self._sources.append(source)

    def run(self) -> None:
        while self.turn():
            pass

    def turn(self, timeout: float | None = None) -> bool:
        """Wait for something to do (timeout: seconds at most) and do it; False after stop()."""
        owners = {fd: source for source in self._sources for fd in source.descriptors}
        ready = self._kernel.poll([self._stop.fileno(), *owners], self._patience(timeout))
        if self._stop.fileno() in ready:
            return False
        for fd in ready:
            # What went before may have closed it.
            if fd in owners[fd].descriptors:
                owners[fd].ready(fd)
        for source in self._sources:
            source.flush_events()
        return True

    def stop(self) -> None:
        """End run(), now or when it begins. From any thread, or a signal handler."""
        self._stop.signal()

    def _patience(self, timeout: float | None) -> float | None:
        """Until the next event that a source holds back."""
        times = [due for source in self._sources if (due := source.next_event_time) is not None]
        if not times:
            return timeout
        due = max(min(times) - self._clock(), 0)
        return due if timeout is None else min(due, timeout)

    def _release(self) -> None:
        self._stop.close()

    def __repr__(self) -> str:
        return f"<EventLoop of {len(self._sources)} sources>"
