"""EventFd: a counter in the kernel that interrupts add to and programs wait for."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack

from pyvfio.kernel.seam import Kernel
from pyvfio.kernel.waitable import Waitable

# In the processor's byte order.
_COUNT = struct.Struct("=Q")


class EventFd(Waitable[int]):
    """An eventfd. wait(), wait_async() and pending() return how often it was signalled since they did so last.

    Whoever makes it closes it. Safe from several threads: close() wakes every thread that waits, with ClosedError.
    kernel: the kernel that it was made in. name: what it stands for, for messages. Source: eventfd(2).
    """

    def __init__(self, kernel: Kernel, name: str = "event") -> None:
        """Raises OSError as the kernel does."""
        super().__init__(kernel, name, kernel.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def signal(self) -> None:
        """Add one to the counter, as a device does when it interrupts. Raises ClosedError."""
        with self.in_use():
            self._wake()

    def _wake(self) -> None:
        self.kernel.write(self._fd, _COUNT.pack(1))

    def _take(self, fd: int) -> int:
        try:
            (count,) = _COUNT.unpack(self.kernel.read(fd, _COUNT.size))
        except BlockingIOError:
            return 0
        return int(count)

    def __repr__(self) -> str:
        return f"<EventFd {self.name}{' closed' if self._closed else ''}>"


def wait_for_any(events: dict[int, EventFd], timeout: float | None) -> dict[int, int]:
    """Wait until one of events is signalled; return how often each was that was signalled, by its number.

    events: at least one, by numbers of the caller's choice. timeout: seconds, after which an empty dictionary is
    returned; None to wait for ever. Raises ClosedError.
    """
    with ExitStack() as stack:
        fds = {stack.enter_context(event.in_use()): number for number, event in events.items()}
        kernel = next(iter(events.values())).kernel
        readable = kernel.poll(list(fds), timeout)
        fired = {fds[fd]: events[fds[fd]].pending() for fd in readable}
        return {number: count for number, count in fired.items() if count}
