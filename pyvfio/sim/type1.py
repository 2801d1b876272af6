"""The type1 IOMMU of a container. Source: drivers/vfio/vfio_iommu_type1.c."""

from __future__ import annotations

import ctypes
import errno
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.pages import Pin
from pyvfio.sim.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel

PAGE = 4096
_LIMIT = 1 << 64
_READ_WRITE = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE
_LARGEST_BITMAP = 1 << 28


@dataclass(frozen=True, slots=True)
class DmaMapping:
    """What one MAP_DMA made. pin None: a device's registers, which are not memory."""

    iova: int
    size: int
    vaddr: int
    flags: int
    pin: Pin | None

    @property
    def end(self) -> int:
        return self.iova + self.size


class Type1:
    """The mappings of one container from SET_IOMMU on. version 1 unmaps whole what it was asked to cut, 2 refuses."""

    def __init__(self, kernel: SimKernel, version: int) -> None:
        self._kernel = kernel
        self.version = version
        self._left = kernel.dma_entry_limit
        self._starts: list[int] = []
        self._mappings: list[DmaMapping] = []

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        """Ascending."""
        return tuple(self._mappings)

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[DmaMapping, int, int]] | None:
        """Mapping, offset in it and length of each part of a transfer; None if the IOMMU stops it anywhere."""
        parts = []
        while size:
            index = bisect_right(self._starts, iova) - 1
            if index < 0 or self._mappings[index].end <= iova or not self._mappings[index].flags & flag:
                return None
            mapping = self._mappings[index]
            length = min(size, mapping.end - iova)
            parts.append((mapping, iova - mapping.iova, length))
            iova, size = iova + length, size - length
        return parts

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_IOMMU_GET_INFO:
                return self._get_info(user)
            case vfio.VFIO_IOMMU_MAP_DMA:
                return self._map(user)
            case vfio.VFIO_IOMMU_UNMAP_DMA:
                return self._unmap(user)
            case _:
                raise fail(errno.ENOTTY)

    def release(self) -> None:
        """The last group has left."""
        for mapping in self._mappings:
            self._drop(mapping)
        self._mappings, self._starts = [], []

    def _get_info(self, user: UserMemory) -> int:
        argsz = user.u32(0)
        user.read(16)
        if argsz < 16:
            raise fail(errno.EINVAL)
        pad = 8 if self._kernel.version >= (6, 2) else 4
        head = ctypes.sizeof(vfio.vfio_iommu_type1_info)
        ranges = self._kernel.iova_ranges
        bodies = [
            (vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, struct.pack("<I4xQQ", 0, PAGE, _LARGEST_BITMAP)),
            (vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, struct.pack("<I", self._left)),
            (
                vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
                struct.pack("<II", len(ranges), 0) + b"".join(struct.pack("<QQ", *ends) for ends in ranges),
            ),
        ]
        chain = b""
        for index, (number, body) in enumerate(bodies):
            body += bytes(-len(body) % pad)
            position = head + len(chain) + 8 + len(body)
            chain += struct.pack("<HHI", number, 1, position if index + 1 < len(bodies) else 0) + body
        flags = vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS
        fits = argsz >= head + len(chain)
        needed = argsz if fits else head + len(chain)
        info = struct.pack("<IIQII", needed, flags, self._kernel.page_sizes, head if fits else 0, 0)
        if fits:
            user.write(chain, head)
        user.write(info[: min(argsz, head)])
        return 0

    def _map(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_map, 32)
        iova, size, vaddr, flags = argument.iova, argument.size, argument.vaddr, argument.flags
        # Updating a vaddr is not offered: CHECK_EXTENSION says so, and a kernel without it knows no such flag.
        if argument.argsz < 32 or flags & ~_READ_WRITE:
            raise fail(errno.EINVAL)
        wraps = iova + size > _LIMIT or vaddr + size > _LIMIT
        if self._kernel.version >= (6, 18) and size and wraps:
            raise fail(errno.EOVERFLOW)
        if not size or not flags & _READ_WRITE or (size | iova | vaddr) % PAGE or wraps:
            raise fail(errno.EINVAL)
        index = bisect_left(self._starts, iova + size)
        if index and self._mappings[index - 1].end > iova:
            raise fail(errno.EEXIST)
        if not self._left:
            raise fail(errno.ENOSPC)
        if not any(start <= iova and iova + size - 1 <= last for start, last in self._kernel.iova_ranges):
            raise fail(errno.EINVAL)
        pin = self._kernel.pin(vaddr, size, write=bool(flags & vfio.VFIO_DMA_MAP_FLAG_WRITE))
        self._left -= 1
        self._starts.insert(index, iova)
        self._mappings.insert(index, DmaMapping(iova, size, vaddr, flags, pin))
        return 0

    def _unmap(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_unmap, 24)
        iova, size, everything = argument.iova, argument.size, argument.flags & vfio.VFIO_DMA_UNMAP_FLAG_ALL
        if argument.argsz < 24 or argument.flags & ~vfio.VFIO_DMA_UNMAP_FLAG_ALL or iova % PAGE:
            raise fail(errno.EINVAL)
        if everything:
            if iova or size:
                raise fail(errno.EINVAL)
            size = _LIMIT
        elif not size or size % PAGE:
            raise fail(errno.EINVAL)
        elif iova + size > _LIMIT:
            raise fail(errno.EOVERFLOW if self._kernel.version >= (6, 18) else errno.EINVAL)
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._mappings[first].end <= iova:
            first += 1
        last = bisect_left(self._starts, iova + size)
        touched = self._mappings[first:last]
        if touched and not everything:
            cuts_first, cuts_last = touched[0].iova < iova, touched[-1].end > iova + size
            if self.version == 2 and (cuts_first or cuts_last):
                raise fail(errno.EINVAL)
            if cuts_first:
                touched = []
        for mapping in touched:
            self._drop(mapping)
        del self._mappings[first : first + len(touched)], self._starts[first : first + len(touched)]
        user.write(struct.pack("<Q", sum(mapping.size for mapping in touched)), 16)
        return 0

    def _drop(self, mapping: DmaMapping) -> None:
        self._left += 1
        if mapping.pin is not None:
            self._kernel.unpin(mapping.pin)
