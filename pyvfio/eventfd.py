"""EventFd: a counter in the kernel that interrupts add to and programs wait for."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyvfio.errors import ClosedError, InvalidArgument
from pyvfio.kernel import Kernel


class EventFd:
    """Owned by whoever made it, until close. Safe from several threads: close wakes all who wait, with ClosedError.

    name: what it stands for, for messages. Source: eventfd(2).
    """

    def __init__(self, kernel: Kernel, name: str = "event") -> None:
        self.kernel = kernel
        self.name = name
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._users = 1
        self._closed = False
        self._awaited = False
        self._fd = kernel.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """For select and event loops, which see it readable once it was signalled. Take the count with pending()."""
        if self._closed:
            raise self._closed_error()
        return self._fd

    def signal(self) -> None:
        """Add one, as the device does."""
        with self._in_use() as fd:
            self.kernel.write(fd, (1).to_bytes(8, "little"))

    def pending(self) -> int:
        """How often it was signalled since it was last asked. Does not wait."""
        with self._in_use() as fd:
            return self._take(fd)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it is signalled: how often it was, 0 after timeout seconds. Raises ClosedError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._in_use() as fd:
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                is_readable = self.kernel.poll([fd], left)
                if self._closed:
                    raise self._closed_error()
                # Another thread may have taken the count first.
                if count := self._take(fd):
                    return count
                if not is_readable and timeout is not None:
                    return 0

    async def wait_async(self) -> int:
        """Like wait, in the running asyncio loop; one task at a time. Cancel it, or use asyncio.timeout, to give up."""
        # Here and not above: asyncio takes longer to import than the rest of pyvfio.
        import asyncio

        loop = asyncio.get_running_loop()
        with self._in_use() as fd, self._alone():
            while True:
                readable = asyncio.Event()
                loop.add_reader(fd, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(fd)
                if self._closed:
                    raise self._closed_error()
                if count := self._take(fd):
                    return count

    def close(self) -> None:
        """Wake who waits. The descriptor is closed when the last of them has left."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._process != os.getpid():
                # A fork takes the count along, but not the threads that wait.
                self._users = 1
            if self._users > 1:
                self.kernel.write(self._fd, (1).to_bytes(8, "little"))
        self._leave()

    def _take(self, fd: int) -> int:
        try:
            return int.from_bytes(self.kernel.read(fd, 8), "little")
        except BlockingIOError:
            return 0

    @contextmanager
    def _in_use(self) -> Iterator[int]:
        """The descriptor, which stays this event's until the block is left, whoever closes it."""
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self._users += 1
        try:
            yield self._fd
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self.kernel.close(self._fd)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._awaited:
                raise InvalidArgument(errno.EBUSY, f"wait for {self.name}", meaning="a task waits for it already")
            self._awaited = True
        try:
            yield
        finally:
            self._awaited = False

    def _closed_error(self) -> ClosedError:
        return ClosedError(errno.EBADF, f"wait for {self.name}", meaning="it is closed")

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
