"""EventFd: a counter in the kernel that interrupts add to and programs wait for."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial

from pyvfio.errors import ClosedError, InvalidArgument
from pyvfio.explain import explain
from pyvfio.kernel.seam import Kernel
from pyvfio.kernel.timeouts import Deadline
from pyvfio.kernel.waitable import T, Waitable

# In the processor's byte order.
_COUNT = struct.Struct("=Q")


class EventFd(Waitable[int]):
    """An eventfd. wait(), wait_async() and pending() return how often it was signalled since they did so last.

    Whoever makes it closes it. Safe from several threads, and from signal handlers: close() wakes every thread that
    waits, with ClosedError. kernel: the kernel that it was made in. name: what it stands for, for messages.
    Source: eventfd(2).
    """

    def __init__(self, kernel: Kernel, name: str = "event", *, is_owned: bool = False) -> None:
        """is_owned: another object closes it, so that the program is not told when both are dropped.

        Raises VfioError, which names the limit, if this process may open no more files.
        """
        try:
            fd = kernel.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise explain(error, f"eventfd for {name}") from error
        super().__init__(kernel, name, fd, is_owned=is_owned)

    def signal(self) -> None:
        """Add one to the counter, as a device does when it interrupts. Raises ClosedError."""
        with self.in_use():
            self._wake()

    def _wake(self) -> None:
        # EAGAIN: the counter is as high as it can be, and readable.
        with suppress(BlockingIOError):
            self.kernel.write(self._fd, _COUNT.pack(1))

    def _take(self, fd: int) -> int:
        try:
            (count,) = _COUNT.unpack(self.kernel.read(fd, _COUNT.size))
        except BlockingIOError:
            return 0
        return int(count)

    def __repr__(self) -> str:
        return f"<EventFd {self.name}{' closed' if self.closed else ''}>"


class Stream(Waitable[T]):
    """A Waitable whose descriptor closing cannot make readable: threads wait for an eventfd beside it, too."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        fd: int,
        closing: EventFd,
        *,
        is_owned: bool = False,
        close: Callable[[], object] | None = None,
    ) -> None:
        """Take fd and closing over: both are closed with this object. is_owned, close: as for Waitable."""
        self._closing = closing
        both = partial(_close_both, close or partial(kernel.close, fd), closing)
        super().__init__(kernel, name, fd, is_owned=is_owned, close=both)

    def _awaited(self) -> list[int]:
        return [self._fd, self._closing.fileno()]

    def _wake(self) -> None:
        self._closing.signal()


def _close_both(close: Callable[[], object], closing: EventFd) -> None:
    try:
        close()
    finally:
        closing.close()


def wait_for_any(events: Mapping[int, EventFd], timeout: float | None) -> dict[int, int]:
    """Wait until one of events is signalled; return how often each was that was signalled, by its number.

    events: at least one, by numbers of the caller's choice. timeout: seconds, after which an empty dictionary is
    returned; None or infinity to wait for ever, zero or less not to wait. Raises InvalidArgument without an event, and
    ClosedError if one is closed, also meanwhile; what others have counted is not lost then.
    """
    deadline = Deadline(timeout)
    if not events:
        raise InvalidArgument(errno.EINVAL, "wait for any", meaning="there is no event to wait for")
    with ExitStack() as stack:
        numbers = {stack.enter_context(event.in_use()): number for number, event in events.items()}
        kernel = next(iter(events.values())).kernel
        while True:
            fired: dict[int, int] = {}
            closed: ClosedError | None = None
            for fd in kernel.poll(list(numbers), deadline.left):
                number = numbers[fd]
                try:
                    # Another thread may have taken it first.
                    if count := events[number].pending():
                        fired[number] = count
                except ClosedError as error:
                    closed = error
            if closed and not fired:
                raise closed
            if fired or deadline.has_passed:
                return fired
