"""Region: a part of a device that is read, written or mapped: BARs, ROM, config space."""

from __future__ import annotations

import ctypes
import enum
import errno
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import mman, vfio
from pyvfio.capabilities import chain, query
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.limits import host_page_size
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.device import Device


class RegionFlags(enum.IntFlag):
    """VFIO_REGION_INFO_FLAG_*."""

    READ = vfio.VFIO_REGION_INFO_FLAG_READ
    WRITE = vfio.VFIO_REGION_INFO_FLAG_WRITE
    MMAP = vfio.VFIO_REGION_INFO_FLAG_MMAP
    CAPS = vfio.VFIO_REGION_INFO_FLAG_CAPS


@dataclass(frozen=True, slots=True)
class MmapArea:
    """A part of a region that can be mapped; offset and size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """offset: where the region begins in the device's file. size 0: the device has no such region."""

    index: int
    flags: RegionFlags
    size: int
    offset: int
    mmap_areas: tuple[MmapArea, ...]


class Region(Resource):
    """Registers, one access of exactly the width asked for: through a mapping where the region can be mapped,
    otherwise with pread and pwrite on the device.

    Offsets are bytes from the region's start, multiples of the width; values are unsigned and little endian on PCI.
    The mapping is made at the first access that needs it and lives until close.
    """

    def __init__(self, device: Device, index: int) -> None:
        self.kernel = device.kernel
        self.device = device
        self._mapped: dict[MmapArea, int] = {}
        try:
            info, data = query(self.kernel, device.fd, vfio.VFIO_DEVICE_GET_REGION_INFO, vfio.vfio_region_info, index)
        except OSError as error:
            raise VfioError(
                error.errno or errno.EIO, f"region {index} of {device.address}", meaning="the device has none"
            ) from error
        flags = RegionFlags(info.flags)
        areas = _mmap_areas(data, info.cap_offset) if flags & RegionFlags.CAPS else None
        if areas is None:
            areas = (MmapArea(0, info.size),) if info.size else ()
        if not flags & RegionFlags.MMAP:
            areas = ()
        self.info = RegionInfo(index, flags, info.size, info.offset, areas)
        super().__init__(device)

    @property
    def size(self) -> int:
        return self.info.size

    def read8(self, offset: int) -> int:
        return self._read(offset, 1)

    def read16(self, offset: int) -> int:
        return self._read(offset, 2)

    def read32(self, offset: int) -> int:
        return self._read(offset, 4)

    def read64(self, offset: int) -> int:
        return self._read(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        self._write(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        self._write(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        self._write(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        self._write(offset, 8, value)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes in whatever widths the kernel chooses: for a ROM or config space, not for registers."""
        self._check_access("read", offset, size, 1, RegionFlags.READ)
        return self.kernel.pread(self.device.fd, size, self.info.offset + offset)

    def _read(self, offset: int, width: int) -> int:
        self._check_access(f"read{8 * width}", offset, width, width, RegionFlags.READ)
        if address := self._address(offset, width):
            return self.kernel.load(address, width)
        data = self.kernel.pread(self.device.fd, width, self.info.offset + offset)
        if len(data) != width:
            raise VfioError(errno.EIO, f"read{8 * width}", {"offset": offset}, f"only {len(data)} bytes came")
        return int.from_bytes(data, "little")

    def _write(self, offset: int, width: int, value: int) -> None:
        self._check_access(f"write{8 * width}", offset, width, width, RegionFlags.WRITE)
        if not 0 <= value < 1 << 8 * width:
            raise InvalidArgument(
                errno.EINVAL, f"write{8 * width}", {"offset": offset, "value": value}, "the value is too wide"
            )
        if address := self._address(offset, width):
            self.kernel.store(address, width, value)
            return
        data = value.to_bytes(width, "little")
        if (written := self.kernel.pwrite(self.device.fd, data, self.info.offset + offset)) != width:
            raise VfioError(errno.EIO, f"write{8 * width}", {"offset": offset}, f"only {written} bytes went")

    def _check_access(self, operation: str, offset: int, size: int, width: int, need: RegionFlags) -> None:
        self._check_open()
        arguments = {"offset": offset, "size": size}
        operation = f"{operation} region {self.info.index} of {self.device.address}"
        if offset < 0 or size <= 0 or offset + size > self.info.size:
            raise InvalidArgument(
                errno.EINVAL, operation, arguments, f"outside the region of {self.info.size:#_x} bytes"
            )
        if offset % width:
            raise InvalidArgument(errno.EINVAL, operation, arguments, f"offset must be a multiple of {width}")
        if not self.info.flags & need:
            raise VfioError(errno.EPERM, operation, arguments, "the region does not allow it")

    def _address(self, offset: int, width: int) -> int:
        """Where a register is mapped; 0 if it cannot be."""
        # A mapped load is little endian only where the processor is.
        if sys.byteorder != "little":
            return 0
        for area in self.info.mmap_areas:
            if area.offset <= offset and offset + width <= area.offset + area.size:
                with self._lock:
                    if area not in self._mapped:
                        self._mapped[area] = self._map(area)
                    return self._mapped[area] + offset - area.offset
        return 0

    def _map(self, area: MmapArea) -> int:
        protection = mman.PROT_NONE
        if self.info.flags & RegionFlags.READ:
            protection |= mman.PROT_READ
        if self.info.flags & RegionFlags.WRITE:
            protection |= mman.PROT_WRITE
        try:
            return self.kernel.mmap(
                _whole_pages(area.size),
                protection,
                mman.MAP_SHARED,
                self.device.fd,
                self.info.offset + area.offset,
            )
        except OSError as error:
            raise VfioError(
                error.errno or errno.EIO,
                f"map region {self.info.index} of {self.device.address}",
                {"offset": area.offset, "size": area.size},
            ) from error

    def _release(self) -> None:
        mapped, self._mapped = self._mapped, {}
        for area, address in mapped.items():
            self.kernel.munmap(address, _whole_pages(area.size))

    def __repr__(self) -> str:
        return f"<Region {self.info.index} of {self.device.address}, {self.info.size:#_x} bytes>"


def _whole_pages(size: int) -> int:
    page = host_page_size()
    return -(-size // page) * page


def _mmap_areas(data: bytes, offset: int) -> tuple[MmapArea, ...] | None:
    for capability in chain(data, offset):
        if capability.id == vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            head = capability.read(vfio.vfio_region_info_cap_sparse_mmap)
            areas = capability.read_array(vfio.vfio_region_sparse_mmap_area, ctypes.sizeof(head), head.nr_areas)
            return tuple(MmapArea(area.offset, area.size) for area in areas if area.size)
    return None
