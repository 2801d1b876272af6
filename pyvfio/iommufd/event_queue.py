"""EventQueue: what an iommufd has to tell, read from a descriptor of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.kernel import EventFd, Kernel, Waitable
from pyvfio.resource import Resource

E = TypeVar("E")


class EventQueue(Resource, ABC, Generic[E]):
    """An object of the iommufd with a descriptor, which wait, select and asyncio see readable while it holds anything.

    id: its number in the iommufd. Safe from several threads: who waits while another closes it gets ClosedError.
    """

    def __init__(self, iommufd: Iommufd, parent: Resource, size: int) -> None:
        """size: how many bytes are read at a time."""
        self.iommufd = iommufd
        self.kernel = iommufd.kernel
        with parent._lock:
            parent._check_open()
            closing = EventFd(self.kernel, "end of an event queue")
            try:
                self.id, fd = self._allocate()
            except BaseException:
                closing.close()
                raise
            self._reader = _Reader(self.kernel, self.name, fd, size, self._parsed, closing)
            super().__init__(parent)

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def _allocate(self) -> tuple[int, int]:
        """Its number and its descriptor. Raises VfioError."""

    @abstractmethod
    def _parsed(self, data: bytes) -> tuple[E, ...]: ...

    def fileno(self) -> int:
        """For select and event loops: readable while it holds anything. Take that with pending()."""
        self._check_open()
        return self._reader.fileno()

    def pending(self) -> tuple[E, ...]:
        """What it holds, oldest first; of very many the first. Does not wait."""
        self._check_open()
        return self._reader.pending()

    def wait(self, timeout: float | None = None) -> tuple[E, ...]:
        """Like pending, but wait until there is any; empty after timeout seconds."""
        self._check_open()
        return self._reader.wait(timeout)

    async def wait_async(self) -> tuple[E, ...]:
        """Like wait, in the running asyncio loop; one task at a time."""
        self._check_open()
        return await self._reader.wait_async()

    def _release(self) -> None:
        # The descriptor holds the object.
        self._reader.close()
        if not self._inherited:
            self.iommufd.destroy(self.id, self.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}{' closed' if self._closed else ''}>"


class _Reader(Waitable[tuple[E, ...]]):
    """Closing cannot make such a descriptor readable: threads wait for another one beside it."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        fd: int,
        size: int,
        parsed: Callable[[bytes], tuple[E, ...]],
        closing: EventFd,
    ) -> None:
        super().__init__(kernel, name, fd)
        self._size = size
        self._parsed = parsed
        self._closing = closing

    def close(self) -> None:
        super().close()
        # The iommufd destroys no object that is open anywhere.
        self._left.wait()

    def _take(self, fd: int) -> tuple[E, ...]:
        return self._parsed(self.kernel.read(fd, self._size))

    def _awaited(self) -> list[int]:
        return [self._fd, self._closing.fileno()]

    def _wake(self) -> None:
        self._closing.signal()

    def _close_descriptors(self) -> None:
        try:
            super()._close_descriptors()
        finally:
            self._closing.close()
