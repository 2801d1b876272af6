"""Pages of an iommufd that programs can map. Source: drivers/iommu/iommufd/main.c, iommufd_fops_mmap; driver.c."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from pyvfio.abi import mman
from pyvfio.sim.iommufd.io_pagetable import PAGE
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process.user import fail


@dataclass(frozen=True, slots=True)
class Pages:
    """size bytes, in a file of the running kernel's, for as long as owner is there."""

    owner: IommufdObject
    size: int
    fd: int


class SharedPages:
    """Of one iommufd, by their offset in it."""

    def __init__(self) -> None:
        self._pages: dict[int, Pages] = {}

    def add(self, owner: IommufdObject, size: int, content: bytes) -> int:
        """The offset of new pages that begin with content."""
        offset = PAGE
        for taken, pages in sorted(self._pages.items()):
            if offset + size <= taken:
                break
            offset = taken + pages.size
        fd = os.memfd_create("iommufd")
        os.ftruncate(fd, size)
        os.pwrite(fd, content, 0)
        self._pages[offset] = Pages(owner, size, fd)
        return offset

    def remove(self, owner: IommufdObject) -> None:
        for offset, pages in list(self._pages.items()):
            if pages.owner is owner:
                os.close(pages.fd)
                del self._pages[offset]

    def mapped(self, length: int, protection: int, flags: int, offset: int) -> Pages:
        """What is mapped there. Raises OSError as the kernel does."""
        if length % PAGE or not flags & mman.MAP_SHARED:
            raise fail(errno.EINVAL)
        if protection & mman.PROT_EXEC:
            raise fail(errno.EPERM)
        pages = self._pages.get(offset)
        if pages is None or pages.size != length:
            raise fail(errno.ENXIO)
        return pages
