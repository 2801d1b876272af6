"""EventFd: a counter in the kernel that interrupts add to and programs wait for."""

from __future__ import annotations

import os
from contextlib import ExitStack

from pyvfio.kernel.seam import Kernel
from pyvfio.kernel.waitable import Waitable


class EventFd(Waitable[int]):
    """Owned by whoever made it, until close. Safe from several threads: close wakes all who wait, with ClosedError.

    What is taken is how often it was signalled since the last time; 0 for not at all.
    name: what it stands for, for messages. Source: eventfd(2).
    """

    def __init__(self, kernel: Kernel, name: str = "event") -> None:
        super().__init__(kernel, name, kernel.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def signal(self) -> None:
        """Add one, as the device does."""
        with self._in_use():
            self._wake()

    def _wake(self) -> None:
        self.kernel.write(self._fd, (1).to_bytes(8, "little"))

    def _take(self, fd: int) -> int:
        try:
            return int.from_bytes(self.kernel.read(fd, 8), "little")
        except BlockingIOError:
            return 0

    def __repr__(self) -> str:
        return f"<EventFd {self.name}{' closed' if self._closed else ''}>"


def wait_for_any(events: dict[int, EventFd], timeout: float | None) -> dict[int, int]:
    """Wait until one of events, by number, is signalled: how often each was that was. Empty after timeout seconds."""
    with ExitStack() as stack:
        fds = {stack.enter_context(event._in_use()): number for number, event in events.items()}
        kernel = next(iter(events.values())).kernel
        readable = kernel.poll(list(fds), timeout)
        fired = {fds[fd]: events[fds[fd]].pending() for fd in readable}
        return {number: count for number, count in fired.items() if count}
