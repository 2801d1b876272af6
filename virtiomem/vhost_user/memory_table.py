"""MemoryTable: the guest's memory, as the front end shares it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pyvfio.kernel import Kernel, host_page_size
from pyvfio.memory import SharedMemory
from pyvfio.units import format_size
from virtiomem.persistence import birth
from virtiomem.vhost_user.abi.vhost_user import VhostUserMemoryRegion
from virtiomem.vhost_user.errors import FrontEndError, QueueBroken
from virtiomem.vhost_user.guest_bytes import CopiedBytes, GuestBytes, MappedBytes, stays
from virtiomem.vhost_user.window import GuestWindow

_END: Final = 1 << 64
_MOST_BYTES: Final = 1 << 44
"""Bytes of a guest's memory. No front end can have this process run out of addresses."""
_LARGEST_PAGE: Final = 1 << 34
"""Bytes of a page. Linux has none that is larger; a file system may say what it likes."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """Where the memory of a region is: in the file with this device and inode number, from byte offset.

    born: when the file was made, as birth() has it.
    """

    device: int
    inode: int
    offset: int
    born: int = 0

    def is_in(self, other: FileRange) -> bool:
        """Whether both are in the same file."""
        return (self.device, self.inode) == (other.device, other.inode)


def file_range(fd: int, offset: int) -> FileRange:
    """The file that fd is of, from byte offset."""
    status = os.fstat(fd)
    return FileRange(status.st_dev, status.st_ino, offset, birth(fd))


@dataclass(frozen=True, slots=True)
class GuestRegion:
    """A part of the guest's memory that the front end shares.

    guest_address: where the guest sees it. size: bytes. user_address: where the front end has it. memory, offset: what
    it is mapped into here, and from which byte of that. file: where the front end keeps it. content: memory's bytes.
    """

    guest_address: int
    size: int
    user_address: int
    memory: SharedMemory
    offset: int
    file: FileRange
    content: GuestBytes

    @property
    def fd(self) -> int:
        """The descriptor of the file, which is the region's."""
        assert self.memory.fd is not None
        return self.memory.fd

    def close(self) -> None:
        """Unmap it. No window may be used any more."""
        self.content.release()
        self.memory.close()

    def overlaps_file(self, offset: int, size: int) -> bool:
        """Whether some of it is in size bytes from offset of its file."""
        return self.file.offset < offset + size and offset < self.file.offset + self.size

    def describes(self, entry: VhostUserMemoryRegion) -> bool:
        """Whether entry, of a message, is about this region."""
        return (self.guest_address, self.size, self.user_address) == (
            entry.guest_phys_addr,
            entry.memory_size,
            entry.userspace_addr,
        )


class MemoryTable:
    """The regions that the front end shares, none of which overlaps another. It owns their mappings and files.

    regions: in the order in which they came.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.regions: tuple[GuestRegion, ...] = ()

    def add(self, entry: VhostUserMemoryRegion, fd: int) -> GuestRegion:
        """Map a region from its file. fd belongs to the table from now on, even after a failure.

        Raises FrontEndError for what cannot be memory of a guest, and VfioError if it cannot be mapped.
        """
        try:
            self._check(entry, fd)
            region = self._mapped(entry, fd)
        except BaseException:
            os.close(fd)
            raise
        self.regions = (*self.regions, region)
        return region

    def replace(self, entries: Sequence[VhostUserMemoryRegion], fds: Sequence[int]) -> None:
        """Have these regions in place of those before, which are unmapped: no window into one may be used any more.

        fds: their files, one each, which belong to the table from now on, even after a failure. Raises as add() does,
        and the table is as it was then.
        """
        table = MemoryTable(self._kernel)
        left = list(fds)
        try:
            for entry in entries:
                table.add(entry, left.pop(0))
        except BaseException:
            table.close()
            for fd in left:
                os.close(fd)
            raise
        self.close()
        self.regions = table.regions

    def remove(self, entry: VhostUserMemoryRegion) -> None:
        """Unmap a region. No window into it may be used any more. Raises FrontEndError if there is no such region."""
        region = next((region for region in self.regions if region.describes(entry)), None)
        if region is None:
            raise _refused(entry, "there is no such region")
        self.regions = tuple(other for other in self.regions if other is not region)
        region.close()

    def close(self) -> None:
        """Unmap all regions. No window may be used any more. Closing twice is harmless."""
        regions, self.regions = self.regions, ()
        for region in regions:
            region.close()

    def at_user_address(self, address: int, size: int) -> GuestWindow:
        """A window of size bytes at an address of the front end. Raises QueueBroken unless one region has them all."""
        for region in self.regions:
            if region.user_address <= address and address + size <= region.user_address + region.size:
                return self._window(region, address - region.user_address, size)
        raise _outside(address, size)

    def at(self, address: int, size: int) -> GuestWindow:
        """A window of size bytes at an address of the guest. Raises QueueBroken unless one region has them all."""
        for region in self.regions:
            if region.guest_address <= address and address + size <= region.guest_address + region.size:
                return self._window(region, address - region.guest_address, size)
        raise _outside(address, size)

    def pieces(self, address: int, size: int) -> Iterator[GuestWindow]:
        """Windows of size bytes in all at an address of the guest, which may lie in several adjacent regions.

        Raises QueueBroken at the first byte that is not in the guest's memory.
        """
        while size:
            region = next(
                (region for region in self.regions if 0 <= address - region.guest_address < region.size), None
            )
            if region is None:
                raise _outside(address, size)
            part = min(size, region.guest_address + region.size - address)
            yield self._window(region, address - region.guest_address, part)
            address, size = address + part, size - part

    def _window(self, region: GuestRegion, offset: int, size: int) -> GuestWindow:
        return GuestWindow(region.content, region.offset + offset, size)

    def _check(self, entry: VhostUserMemoryRegion, fd: int) -> None:
        end, user_end = entry.guest_phys_addr + entry.memory_size, entry.userspace_addr + entry.memory_size
        if not entry.memory_size or max(end, user_end, entry.mmap_offset + entry.memory_size) > _END:
            raise _refused(entry, "it is empty or its end wraps")
        for other in self.regions:
            if entry.guest_phys_addr < other.guest_address + other.size and other.guest_address < end:
                raise _refused(entry, "it overlaps another region")
            if entry.userspace_addr < other.user_address + other.size and other.user_address < user_end:
                raise _refused(entry, "it overlaps another region in the front end")
        if sum(other.size for other in self.regions) + entry.memory_size > _MOST_BYTES:
            raise _refused(entry, f"a guest has at most {format_size(_MOST_BYTES)} here")
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(entry, "its descriptor is no file of memory")
        if status.st_size < entry.mmap_offset + entry.memory_size:
            raise _refused(entry, "its file is too short")

    def _mapped(self, entry: VhostUserMemoryRegion, fd: int) -> GuestRegion:
        # A region begins where the guest's memory does, which need not be at a huge page of its file.
        page_size = _page_size(fd)
        within = entry.mmap_offset % page_size
        size = -(-(within + entry.memory_size) // page_size) * page_size
        memory = SharedMemory(size, page_size=page_size, kernel=self._kernel)
        try:
            content = self._content(memory, fd)
            memory.attach(fd, entry.mmap_offset - within)
        except BaseException:
            memory.close()
            raise
        file = file_range(fd, entry.mmap_offset)
        return GuestRegion(
            entry.guest_phys_addr, entry.memory_size, entry.userspace_addr, memory, within, file, content
        )

    def _content(self, memory: SharedMemory, fd: int) -> GuestBytes:
        if stays(fd, memory.page_size):
            return MappedBytes(self._kernel.window(memory.address, memory.size))
        return CopiedBytes(memory.address, memory.size)


def is_of_huge_pages(fd: int) -> bool:
    """Whether a file is of hugetlbfs. Source: fcntl(2), F_GET_SEALS: shared memory and hugetlbfs alone have seals."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return _page_size(fd) != host_page_size()


def _page_size(fd: int) -> int:
    """The page size of a file: a huge page's on hugetlbfs. Others say anything, down to 0, that suits their reads."""
    size = os.fstatvfs(fd).f_bsize
    is_page_size = host_page_size() <= size <= _LARGEST_PAGE and not size & (size - 1)
    return size if is_page_size else host_page_size()


def _refused(entry: VhostUserMemoryRegion, meaning: str) -> FrontEndError:
    arguments = {
        "guest address": entry.guest_phys_addr,
        "size": entry.memory_size,
        "offset": entry.mmap_offset,
    }
    return FrontEndError(errno.EINVAL, "vhost-user memory region", arguments, meaning)


def _outside(address: int, size: int) -> QueueBroken:
    return QueueBroken(errno.EFAULT, "ring", {"address": address, "size": size}, "not the guest's memory")
