"""EventLoop: serves any number of sources, such as vhost-user devices, in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pyvfio.kernel import EventFd, Kernel, LinuxKernel
from pyvfio.resource import Resource


class Source(Protocol):
    """What an EventLoop serves. Its methods raise nothing that a peer could cause."""

    @property
    def descriptors(self) -> list[int]:
        """The descriptors to wait for until one is readable. They may be others at every turn."""

    def ready(self, fd: int) -> None:
        """fd is readable: do what there is to do, without waiting."""

    @property
    def next_event_time(self) -> float | None:
        """When, by the loop's clock, flush_events() is to be called at the latest; None if nothing waits for it."""

    def flush_events(self) -> None:
        """Do what is due by now. The loop calls this after every turn."""


class EventLoop(Resource):
    """Serves sources from run() until stop(). The sources stay the caller's."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """kernel: the one that waits (default: Linux). clock: the one by which the sources tell next_event_time."""
        self._sources = [*sources]
        self._kernel = kernel or LinuxKernel()
        self._clock = clock
        self._stop = EventFd(self._kernel, "stop", is_owned=True)
        super().__init__()

    def add(self, source: Source) -> None:
        """Serve source, too. Call it before run(), or from a source's own turn."""
        self._sources.append(source)

    def run(self) -> None:
        """Serve until stop()."""
        while self.turn():
            pass

    def turn(self, timeout: float | None = None) -> bool:
        """Wait at most timeout seconds (default: for ever) for something to do, and do it. False after stop()."""
        owners = {fd: source for source in self._sources for fd in source.descriptors}
        ready = self._kernel.poll([self._stop.fileno(), *owners], self._patience(timeout))
        if self._stop.fileno() in ready:
            return False
        for fd in ready:
            # A source that was served before it in this turn may have closed it.
            if fd in owners[fd].descriptors:
                owners[fd].ready(fd)
        for source in self._sources:
            source.flush_events()
        return True

    def stop(self) -> None:
        """End run(), now or when it begins. Safe from any thread, and from a signal handler."""
        self._stop.signal()

    def _patience(self, timeout: float | None) -> float | None:
        """Seconds to wait: until the next event that a source holds back, and timeout at most."""
        times = [due for source in self._sources if (due := source.next_event_time) is not None]
        if not times:
            return timeout
        due = max(min(times) - self._clock(), 0)
        return due if timeout is None else min(due, timeout)

    def _release(self) -> None:
        self._stop.close()

    def __repr__(self) -> str:
        return f"<EventLoop of {len(self._sources)} sources>"
