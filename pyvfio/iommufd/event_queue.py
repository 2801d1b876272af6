"""EventQueue: what an iommufd has to tell, read from a descriptor of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.iommufd.object import IommufdObject
from pyvfio.kernel import EventFd, Kernel, Stream

E = TypeVar("E")


class EventQueue(IommufdObject, Generic[E]):
    """An object of an iommufd with a descriptor that select, poll and asyncio see readable while it holds an event.

    Safe from several threads: a thread that waits gets ClosedError when another one closes the queue.
    """

    def __init__(self, parent: Iommufd | IommufdObject, size: int) -> None:
        """size: how many bytes are read at a time."""
        super().__init__(parent)
        with self._allocation():
            closing = EventFd(self.kernel, "end of an event queue", is_owned=True)
            try:
                self.id, fd = self._allocate()
            except BaseException:
                closing.close()
                raise
            self._reader = _Reader(self.kernel, self.name, fd, size, self._parsed, closing)

    @abstractmethod
    def _allocate(self) -> tuple[int, int]:
        """Ask the kernel for the queue; return its number and its descriptor. Raises VfioError."""

    @abstractmethod
    def _parsed(self, data: bytes) -> tuple[E, ...]:
        """The events in the bytes that were read."""

    def fileno(self) -> int:
        """The descriptor, for select and event loops. While it is readable, pending() has events to take."""
        self.require_open()
        return self._reader.fileno()

    def pending(self) -> tuple[E, ...]:
        """Take the events that the queue holds, the oldest first, or the first of very many. Does not wait."""
        self.require_open()
        return self._reader.pending()

    def wait(self, timeout: float | None = None) -> tuple[E, ...]:
        """Wait until the queue holds an event, and take what it holds; nothing after timeout seconds.

        timeout: None or infinity to wait for ever, zero or less not to wait.
        """
        self.require_open()
        return self._reader.wait(timeout)

    async def wait_async(self) -> tuple[E, ...]:
        """Wait as wait() does, in the running asyncio loop. One task can wait at a time."""
        self.require_open()
        return await self._reader.wait_async()

    def _write(self, data: bytes) -> int:
        """Write to the descriptor; return how many bytes the kernel took. Raises ClosedError, OSError."""
        return self._reader.write(data)

    def _release(self) -> None:
        # The kernel destroys no queue whose descriptor is open. There is none before there is a number.
        if self.id:
            self._reader.close()
        super()._release()


class _Reader(Stream[tuple[E, ...]]):
    """The descriptor of a queue."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        fd: int,
        size: int,
        parsed: Callable[[bytes], tuple[E, ...]],
        closing: EventFd,
    ) -> None:
        super().__init__(kernel, name, fd, closing, is_owned=True)
        self._size = size
        self._parsed = parsed

    def write(self, data: bytes) -> int:
        """Write to the descriptor, which stays open meanwhile."""
        with self.in_use() as fd:
            return self.kernel.write(fd, data)

    def close(self) -> None:
        super().close()
        # The iommufd destroys no object that is open anywhere. Who waits holds no lock, and leaves at once; but in this
        # thread it is what a signal handler has interrupted.
        self._descriptor.wait_until_unused()

    def _take(self, fd: int) -> tuple[E, ...]:
        return self._parsed(self.kernel.read(fd, self._size))
