"""The commands of iommufd that work on address spaces. Source: drivers/iommu/iommufd/ioas.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import access_of, command_in, refuse
from pyvfio.sim.iommufd.io_pagetable import IoasState, Source
from pyvfio.sim.process.user import UserMemory, fail, read_memory, write_memory

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState

_LAST = (1 << 64) - 1
_MAP_FLAGS = abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE


class IoasCommands:
    """Of one iommufd."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        self.commands: dict[int, Callable[[UserMemory], int]] = {
            abi.IOMMU_IOAS_ALLOC: self._ioas_alloc,
            abi.IOMMU_IOAS_ALLOW_IOVAS: self._allow_iovas,
            abi.IOMMU_IOAS_COPY: self._copy,
            abi.IOMMU_IOAS_IOVA_RANGES: self._iova_ranges,
            abi.IOMMU_IOAS_MAP: self._map,
            abi.IOMMU_IOAS_UNMAP: self._unmap,
        }
        if iommufd.kernel.version >= (6, 13):
            self.commands[abi.IOMMU_IOAS_MAP_FILE] = self._map_file
        if iommufd.kernel.version >= (7, 3):
            self.commands[abi.IOMMU_IOAS_NOIOMMU_GET_PA] = self._noiommu_get_pa

    def _ioas_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_alloc, 12)
        refuse(command.flags)
        user.write(struct.pack("<I", self._iommufd.add(IoasState())), 8)
        return 0

    def _iova_ranges(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_iova_ranges, 32)
        refuse(getattr(command, "__reserved"))
        ioas = self._iommufd.ioas(command.ioas_id)
        ranges = ioas.ranges()
        told = b"".join(struct.pack("<QQ", *ends) for ends in ranges[: command.num_iovas])
        if told:
            write_memory(command.allowed_iovas, told)
        user.write(struct.pack("<I", len(ranges)), 8)
        user.write(struct.pack("<Q", ioas.alignment), 24)
        if len(ranges) > command.num_iovas:
            raise fail(errno.EMSGSIZE)
        return 0

    def _allow_iovas(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_allow_iovas, 24)
        refuse(getattr(command, "__reserved"))
        ioas = self._iommufd.ioas(command.ioas_id)
        data = read_memory(command.allowed_iovas, 16 * command.num_iovas) if command.num_iovas else b""
        ranges: list[tuple[int, int]] = []
        for start, last in struct.iter_unpack("<QQ", data):
            if start >= last or any(start <= other[1] and other[0] <= last for other in ranges):
                raise fail(errno.EINVAL)
            ranges.append((start, last))
        if any(not any(first <= start and last <= end for first, end in ioas.ranges()) for start, last in ranges):
            raise fail(errno.EADDRINUSE)
        ioas.allowed = sorted(ranges)
        return 0

    def _map(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_map, 40)
        refuse(command.flags & ~_MAP_FLAGS | getattr(command, "__reserved"))
        source = Source(user.process, command.user_va, command.length)
        iova = self._map_pages(command.ioas_id, command.flags, command.iova, source)
        user.write(struct.pack("<Q", iova), 32)
        return 0

    def _map_file(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_map_file, 40)
        refuse(command.flags & ~_MAP_FLAGS)
        source = self._iommufd.kernel.pinning.source_in_file(user.process, command.fd, command.start, command.length)
        iova = self._map_pages(command.ioas_id, command.flags, command.iova, source)
        user.write(struct.pack("<Q", iova), 32)
        return 0

    def _map_pages(self, ioas_id: int, flags: int, iova: int, source: Source) -> int:
        if iova >= _LAST or source.size >= _LAST:
            raise fail(errno.EOVERFLOW)
        if not flags & (abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE):
            raise fail(errno.EINVAL)
        ioas = self._iommufd.ioas(ioas_id)
        return self._iommufd.map_into(
            ioas, iova if flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA else None, source, access_of(flags)
        )

    def _copy(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_copy, 40)
        refuse(command.flags & ~_MAP_FLAGS)
        if max(command.length, command.src_iova, command.dst_iova) >= _LAST:
            raise fail(errno.EOVERFLOW)
        if not command.flags & (abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE):
            raise fail(errno.EINVAL)
        source = self._iommufd.ioas(command.src_ioas_id)
        if not command.length:
            raise fail(errno.EINVAL)
        if command.src_iova + command.length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        slices = source.slices(command.src_iova, command.src_iova + command.length - 1)
        target = self._iommufd.ioas(command.dst_ioas_id)
        iova = command.dst_iova
        if not command.flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA:
            iova = target.find_room(slices[0].pages.source.start + slices[0].offset, command.length)
        moved = iova - command.src_iova
        target.insert([replace(area, iova=area.iova + moved, flags=access_of(command.flags)) for area in slices])
        user.write(struct.pack("<Q", iova), 24)
        return 0

    def _noiommu_get_pa(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_noiommu_get_pa, 40)
        user.process.require_raw_io()
        refuse(command.flags | getattr(command, "__reserved"))
        if not command.length:
            raise fail(errno.EINVAL)
        if command.iova >= _LAST:
            raise fail(errno.EOVERFLOW)
        ioas = self._iommufd.ioas(command.ioas_id)
        address, length = ioas.physical(self._iommufd.kernel.pinning, command.iova, command.length)
        user.write(struct.pack("<QQ", length, address), 24)
        return 0

    def _unmap(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_ioas_unmap, 24)
        ioas = self._iommufd.ioas(command.ioas_id)
        everything = command.iova == 0 and command.length == _LAST
        if everything:
            gone, code = ioas.unmap(0, _LAST)
        else:
            if command.iova >= _LAST or command.length >= _LAST:
                raise fail(errno.EOVERFLOW)
            gone, code = ioas.unmap_range(command.iova, command.length)
        if code or (not gone and not everything):
            raise fail(code or errno.ENOENT)
        user.write(struct.pack("<Q", gone), 16)
        return 0
