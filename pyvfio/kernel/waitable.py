"""Waitable: a descriptor that becomes readable, and the threads and tasks that wait for it."""

from __future__ import annotations

import errno
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from pyvfio.errors import ClosedError, InvalidArgument
from pyvfio.kernel.seam import Kernel

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_PATIENCE = 5.0
"""How many seconds another thread's event loop has to let go of a descriptor that is about to be closed."""


class Waitable(ABC, Generic[T]):
    """A descriptor that is readable while there is something to take: a T, which is false if there is nothing.

    Whoever makes it closes it. Safe from several threads: close() wakes every thread that waits, with ClosedError.
    kernel: the kernel that the descriptor is of. name: what it stands for, for messages.
    """

    def __init__(self, kernel: Kernel, name: str, fd: int) -> None:
        """Take fd over: it is closed with this object."""
        self.kernel = kernel
        self.name = name
        self._fd = fd
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._users = 1
        self._closed = False
        self._left = threading.Event()
        self._watch: _Watch | None = None

    def fileno(self) -> int:
        """The descriptor, for select and event loops: it is readable while there is something, which pending() takes.

        Raises ClosedError.
        """
        if self._closed:
            raise self._closed_error()
        return self._fd

    def pending(self) -> T:
        """Take what there is. Does not wait. Raises ClosedError."""
        with self.in_use() as fd:
            return self._take(fd)

    def wait(self, timeout: float | None = None) -> T:
        """Wait until there is something, or until timeout seconds have passed; take and return it.

        timeout None: wait for ever. Raises ClosedError, also if it is closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.in_use() as fd:
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                is_readable = self.kernel.poll(self._awaited(), left)
                if self._closed:
                    raise self._closed_error()
                # Another thread may have taken it first.
                if (taken := self._take(fd)) or (not is_readable and timeout is not None):
                    return taken

    async def wait_async(self) -> T:
        """Wait in the running asyncio loop until there is something; take and return it.

        One task at a time can wait. asyncio.timeout limits the time. Raises ClosedError, also if it is closed
        meanwhile, and InvalidArgument while another task waits.
        """
        # Here and not above: asyncio takes longer to import than the rest of pyvfio.
        import asyncio

        while True:
            readable = asyncio.Event()
            with self._watched_by(_Watch(asyncio.get_running_loop(), self._fd, readable.set)):
                await readable.wait()
            if taken := self.pending():
                return taken

    def close(self) -> None:
        """Wake every thread that waits. The last one of them closes the descriptor."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            is_forked = self._process != os.getpid()
            if is_forked:
                # A fork takes the count along, but not the threads that wait.
                self._users = 1
            if self._users > 1:
                self._wake()
            watch = None if is_forked else self._watch
        if watch is not None:
            watch.end()
        self._leave()

    @abstractmethod
    def _take(self, fd: int) -> T:
        """Take what there is, without waiting. Raises OSError as the kernel does."""

    @abstractmethod
    def _wake(self) -> None:
        """Make one of the descriptors of _awaited() readable. Raises OSError as the kernel does."""

    def _awaited(self) -> list[int]:
        """The descriptors that threads wait for."""
        return [self._fd]

    def _close_descriptors(self) -> None:
        self.kernel.close(self._fd)

    @contextmanager
    def in_use(self) -> Iterator[int]:
        """The descriptor, which is not closed before the block is left. Raises ClosedError."""
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
            self._close_descriptors()
            self._left.set()

    @contextmanager
    def _watched_by(self, watch: _Watch) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._watch is not None:
                raise InvalidArgument(errno.EBUSY, f"wait for {self.name}", meaning="a task waits for it already")
            self._watch = watch
        try:
            watch.begin()
            yield
        finally:
            watch.end()
            self._watch = None

    def _closed_error(self) -> ClosedError:
        return ClosedError(errno.EBADF, f"wait for {self.name}", meaning="it is closed")


class _Watch:
    """An event loop that waits for a descriptor. It calls fire when the descriptor is readable or to be closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._fire = fire
        self._thread = threading.get_ident()
        self._ended = threading.Event()

    def begin(self) -> None:
        self._loop.add_reader(self._fd, self._fire)

    def end(self) -> None:
        """Have the loop let go of the descriptor, and wait until it has. Can be called in any thread."""
        if threading.get_ident() == self._thread or self._loop.is_closed():
            self._let_go()
        else:
            self._loop.call_soon_threadsafe(self._let_go)
            self._ended.wait(_PATIENCE)

    def _let_go(self) -> None:
        if not self._ended.is_set():
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
                self._fire()
            self._ended.set()
