"""Pages of an iommufd that programs can map. Source: drivers/iommu/iommufd/main.c, iommufd_fops_mmap; driver.c."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from pyvfio.abi import mman
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import fail


@dataclass(frozen=True, slots=True)
class Pages:
    """size bytes, which a program may map while owner is there. fd: the file of the running kernel that has them."""

    owner: IommufdObject
    size: int
    fd: int


class SharedPages:
    """The pages of an iommufd, by the offset that a program maps them at."""

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
        """The owner is gone, and its pages with it."""
        for offset, pages in list(self._pages.items()):
            if pages.owner is owner:
                os.close(pages.fd)
                del self._pages[offset]

    def mapped(self, length: int, protection: int, flags: int, offset: int) -> Pages:
        """The pages at an offset, for a program that maps them like this. Raises OSError as iommufd_fops_mmap does."""
        if length % PAGE or not flags & mman.MAP_SHARED:
            raise fail(errno.EINVAL)
        if protection & mman.PROT_EXEC:
            raise fail(errno.EPERM)
        pages = self._pages.get(offset)
        if pages is None or pages.size != length:
            raise fail(errno.ENXIO)
        return pages
