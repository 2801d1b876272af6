"""Waitable: a descriptor that becomes readable, and the threads and tasks that wait for it."""

from __future__ import annotations

import errno
import os
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from pyvfio.errors import InvalidArgument
from pyvfio.explain import explain
from pyvfio.kernel.descriptor import Descriptor
from pyvfio.kernel.seam import Kernel
from pyvfio.kernel.timeouts import Deadline
from pyvfio.lifetime import drop, lock_of

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Waitable(ABC, Generic[T]):
    """A descriptor that is readable while there is something to take: a T, which is false if there is nothing.

    Whoever makes it closes it. Safe from several threads and from signal handlers: close() wakes every thread and task
    that waits, with ClosedError, and waits for none of them. Dropped open it is closed, with a ResourceWarning.
    kernel: the kernel that the descriptor is of. name: what it stands for, for messages.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        fd: int,
        *,
        is_owned: bool = False,
        close: Callable[[], object] | None = None,
    ) -> None:
        """Take fd over: it is closed with this object.

        is_owned: another object closes this one, so that the program is not told when both are dropped. close: closes
        fd and whatever goes with it, and does not refer to this object.
        """
        self.kernel = kernel
        self.name = name
        self._fd = fd
        self._is_owned = is_owned
        self._process = os.getpid()
        # For who begins to watch and who closes. A signal handler may come in while its thread holds it.
        self._living_lock = threading.RLock()
        self._watch: _Watch | None = None
        # Last: an object that could not be made has none, and is not missed.
        self._descriptor = Descriptor(fd, f"wait for {name}", close or partial(kernel.close, fd))

    @property
    def closed(self) -> bool:
        """Whether close() has been called."""
        return self._descriptor.closed

    def fileno(self) -> int:
        """The descriptor, for poll, epoll and event loops: it is readable while there is something, which pending()
        takes. select.select() takes no descriptor above 1023. Have a loop of your own let go of it before close().

        Raises ClosedError.
        """
        self._descriptor.require_open()
        return self._fd

    def pending(self) -> T:
        """Take what there is. Does not wait. Raises ClosedError."""
        with self.in_use() as fd:
            return self._take(fd)

    def wait(self, timeout: float | None = None) -> T:
        """Wait until there is something, or until timeout seconds have passed; take and return it.

        timeout: None or infinity to wait for ever, zero or less not to wait. Raises ClosedError, also if it is closed
        meanwhile, and InvalidArgument for a timeout that is no number.
        """
        deadline = Deadline(timeout)
        with self.in_use() as fd:
            while True:
                self.kernel.poll(self._awaited(), deadline.left)
                self._descriptor.require_open()
                # Another thread may have taken it first.
                if (taken := self._take(fd)) or deadline.has_passed:
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
            with self._watched_by(asyncio.get_running_loop(), readable.set):
                await readable.wait()
            if taken := self.pending():
                return taken

    def close(self) -> None:
        """Wake every thread and task that waits. The last thread of them closes the descriptor."""
        with self._lock:
            self._descriptor.close(self._wake)
            # A fork takes the watch along, but not the loop's thread.
            watch = None if self._descriptor.inherited else self._watch
        if watch is not None:
            watch.wake()

    @abstractmethod
    def _take(self, fd: int) -> T:
        """Take what there is, without waiting. Raises OSError as the kernel does."""

    @abstractmethod
    def _wake(self) -> None:
        """Make one of the descriptors of _awaited() readable. Raises OSError as the kernel does."""

    def _awaited(self) -> list[int]:
        """The descriptors that threads wait for."""
        return [self._fd]

    def in_use(self) -> AbstractContextManager[int]:
        """The descriptor, which is not closed before the block is left. Raises ClosedError."""
        return self._descriptor.in_use()

    @property
    def _lock(self) -> threading.RLock:
        return lock_of(self._process, self._living_lock)

    @contextmanager
    def _watched_by(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._descriptor.require_open()
            if self._watch is not None:
                raise InvalidArgument(errno.EBUSY, f"wait for {self.name}", meaning="a task waits for it already")
            watch = self._watch = _Watch(loop, self._fd, fire)
        try:
            yield
        finally:
            self._watch = None
            watch.end()

    def __enter__(self) -> Self:
        self._descriptor.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None and not descriptor.closed:
            drop(self, self.close, warn=not self._is_owned and not descriptor.inherited)


class _Watch:
    """An event loop that calls fire when a descriptor is readable, through a descriptor of its own.

    So whoever closes the descriptor neither waits for the loop, which may be busy or wait for a lock of his, nor takes
    away under it what it has registered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, fire: Callable[[], object]) -> None:
        """Raises VfioError if the process may open no more files."""
        self._loop = loop
        self._fire = fire
        try:
            self._epoll = select.epoll()
        except OSError as error:
            raise explain(error, "wait in an event loop") from error
        try:
            self._epoll.register(fd, select.EPOLLIN)
            loop.add_reader(self._epoll.fileno(), fire)
        except BaseException:
            self._epoll.close()
            raise

    def wake(self) -> None:
        """Have the loop call fire, in its own thread. Can be called in any thread."""
        # A loop that is closed calls nothing any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._fire)

    def end(self) -> None:
        """Have the loop let go. Called in the loop's thread, or when the loop does not run any more."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
