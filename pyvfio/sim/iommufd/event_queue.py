"""Queues of iommufd that a program reads from a descriptor. Source: drivers/iommu/iommufd/eventq.c."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState
    from pyvfio.sim.process.process import Process


class EventQueue(IommufdObject, ABC):
    """Its descriptor holds it, and the iommufd, until closed. The running kernel's poll sees when it can be read."""

    def __init__(self, iommufd: IommufdState) -> None:
        super().__init__()
        self._iommufd = iommufd
        self._fd = -1
        """The queue's own; programs have duplicates."""

    def open(self, process: Process) -> int:
        """A descriptor. Raises OSError where there can be no more."""
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        fd = process.install(self, os.dup(self._fd))
        self.users += 1
        self._iommufd.holders += 1
        return fd

    def closed(self) -> None:
        """The descriptor is."""
        os.close(self._fd)
        self._fd = -1
        self.users -= 1
        self._iommufd.drop()

    def ioctl(self, _request: int, _user: UserMemory) -> int:
        raise fail(errno.ENOTTY)

    @property
    @abstractmethod
    def is_empty(self) -> bool: ...

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Raises OSError as the kernel does; nothing where there is nothing to read."""

    def write(self, _data: bytes) -> int:
        raise fail(errno.EINVAL)

    def _show(self) -> None:
        """Let poll see whether there is something to read."""
        if self._fd >= 0:
            if self.is_empty:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._fd)
            else:
                os.eventfd_write(self._fd, 1)
