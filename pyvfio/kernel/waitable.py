"""Waitable: a descriptor of the kernel's that becomes readable, and the threads and tasks that wait for it."""

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
"""Seconds for another thread's event loop to let go of a descriptor that is about to be closed."""


class Waitable(ABC, Generic[T]):
    """Owned by whoever made it, until close. Safe from several threads: close wakes all who wait, with ClosedError.

    name: what it stands for, for messages. What is taken from it is false when there is nothing.
    """

    def __init__(self, kernel: Kernel, name: str, fd: int) -> None:
        """Takes fd over."""
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
        """For select and event loops, which see it readable while there is something: take it with pending()."""
        if self._closed:
            raise self._closed_error()
        return self._fd

    def pending(self) -> T:
        """What there is to take. Does not wait."""
        with self._in_use() as fd:
            return self._take(fd)

    def wait(self, timeout: float | None = None) -> T:
        """Wait until there is something to take, or until timeout seconds have passed. Raises ClosedError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._in_use() as fd:
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                is_readable = self.kernel.poll(self._awaited(), left)
                if self._closed:
                    raise self._closed_error()
                # Another thread may have taken it first.
                if (taken := self._take(fd)) or (not is_readable and timeout is not None):
                    return taken

    async def wait_async(self) -> T:
        """Like wait, in the running asyncio loop; one task at a time. Cancel it, or use asyncio.timeout, to give up."""
        # Here and not above: asyncio takes longer to import than the rest of pyvfio.
        import asyncio

        while True:
            readable = asyncio.Event()
            with self._watched_by(_Watch(asyncio.get_running_loop(), self._fd, readable.set)):
                await readable.wait()
            if taken := self.pending():
                return taken

    def close(self) -> None:
        """Wake who waits. The descriptor is closed when the last thread of them has left."""
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
        """Without waiting."""

    @abstractmethod
    def _wake(self) -> None:
        """Make one of the descriptors that threads wait for readable."""

    def _awaited(self) -> list[int]:
        """What threads wait for."""
        return [self._fd]

    def _close_descriptors(self) -> None:
        self.kernel.close(self._fd)

    @contextmanager
    def _in_use(self) -> Iterator[int]:
        """The descriptor, which stays this object's until the block is left, whoever closes it."""
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
    """An event loop that waits for a descriptor, until it is readable or no longer this one's: fire is called then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._fire = fire
        self._thread = threading.get_ident()
        self._ended = threading.Event()

    def begin(self) -> None:
        self._loop.add_reader(self._fd, self._fire)

    def end(self) -> None:
        """From any thread: the loop's own lets go at once, another waits until it has."""
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
