"""The commands of iommufd that work on address spaces. Source: drivers/iommu/iommufd/ioas.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import Command, refuse
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.io_pagetable import READ, WRITE, IoasState
from pyvfio.sim.iommufd.pages import Source, change_process
from pyvfio.sim.process import RegisterFile, UserMemory, fail, read_memory, write_memory

_LAST = (1 << 64) - 1
_MAP_FLAGS = abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE


class IoasCommands:
    """The commands of an iommufd."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_IOAS_ALLOC: Command(abi.iommu_ioas_alloc, 12, self._alloc),
            abi.IOMMU_IOAS_ALLOW_IOVAS: Command(abi.iommu_ioas_allow_iovas, 24, self._allow_iovas),
            abi.IOMMU_IOAS_COPY: Command(abi.iommu_ioas_copy, 40, self._copy),
            abi.IOMMU_IOAS_IOVA_RANGES: Command(abi.iommu_ioas_iova_ranges, 32, self._iova_ranges),
            abi.IOMMU_IOAS_MAP: Command(abi.iommu_ioas_map, 40, self._map),
            abi.IOMMU_IOAS_UNMAP: Command(abi.iommu_ioas_unmap, 24, self._unmap),
            abi.IOMMU_IOAS_MAP_FILE: Command(abi.iommu_ioas_map_file, 40, self._map_file, since=(6, 13)),
            abi.IOMMU_IOAS_CHANGE_PROCESS: Command(
                abi.iommu_ioas_change_process, 8, self._change_process, since=(6, 14)
            ),
            abi.IOMMU_IOAS_NOIOMMU_GET_PA: Command(
                abi.iommu_ioas_noiommu_get_pa, 40, self._noiommu_get_pa, since=(7, 3), needs_raw_io=True
            ),
        }

    def _ioas(self, number: int) -> IoasState:
        return self._iommufd.get(number, IoasState)

    def _alloc(self, user: UserMemory, command: abi.iommu_ioas_alloc) -> None:
        refuse(command.flags)
        user.write(struct.pack("<I", self._iommufd.new_ioas().id), 8)

    def _iova_ranges(self, user: UserMemory, command: abi.iommu_ioas_iova_ranges) -> None:
        ioas = self._ioas(command.ioas_id)
        ranges = ioas.ranges()
        told = b"".join(struct.pack("<QQ", *ends) for ends in ranges[: command.num_iovas])
        if told:
            write_memory(command.allowed_iovas, told)
        user.write(struct.pack("<I", len(ranges)), 8)
        user.write(struct.pack("<Q", ioas.alignment), 24)
        if len(ranges) > command.num_iovas:
            raise fail(errno.EMSGSIZE)

    def _allow_iovas(self, _user: UserMemory, command: abi.iommu_ioas_allow_iovas) -> None:
        ioas = self._ioas(command.ioas_id)
        data = read_memory(command.allowed_iovas, 16 * command.num_iovas) if command.num_iovas else b""
        ranges: list[tuple[int, int]] = []
        for start, last in struct.iter_unpack("<QQ", data):
            if start >= last or any(start <= other[1] and other[0] <= last for other in ranges):
                raise fail(errno.EINVAL)
            ranges.append((start, last))
        if any(not any(first <= start and last <= end for first, end in ioas.ranges()) for start, last in ranges):
            raise fail(errno.EADDRINUSE)
        ioas.allowed = sorted(ranges)

    def _map(self, user: UserMemory, command: abi.iommu_ioas_map) -> None:
        refuse(command.flags & ~_MAP_FLAGS)
        source = Source(user.process, command.user_va, command.length)
        iova = self._map_pages(command.ioas_id, command.flags, command.iova, source)
        user.write(struct.pack("<Q", iova), 32)

    def _map_file(self, user: UserMemory, command: abi.iommu_ioas_map_file) -> None:
        refuse(command.flags & ~_MAP_FLAGS)
        source = self._file(user, command)
        iova = self._map_pages(command.ioas_id, command.flags, command.iova, source)
        user.write(struct.pack("<Q", iova), 32)

    def _file(self, user: UserMemory, command: abi.iommu_ioas_map_file) -> Source:
        """A part of a file; from Linux 7.0 on of a dma-buf of a device's registers too."""
        registers = user.process.file(command.fd, RegisterFile)
        if registers is not None and self._iommufd.machine.version >= (7, 0):
            return Source(user.process, command.start, command.length, registers=registers)
        file = self._iommufd.machine.pages.memory_file(command.fd)
        return Source(user.process, command.start, command.length, file)

    def _map_pages(self, ioas_id: int, flags: int, iova: int, source: Source) -> int:
        if iova >= _LAST or source.size >= _LAST:
            raise fail(errno.EOVERFLOW)
        if not flags & (abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE):
            raise fail(errno.EINVAL)
        ioas = self._ioas(ioas_id)
        access = _access_of(flags)
        pages = self._iommufd.page_set(source, writable=bool(access & WRITE))
        return ioas.map(iova if flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA else None, pages, access)

    def _copy(self, user: UserMemory, command: abi.iommu_ioas_copy) -> None:
        refuse(command.flags & ~_MAP_FLAGS)
        if max(command.length, command.src_iova, command.dst_iova) >= _LAST:
            raise fail(errno.EOVERFLOW)
        if not command.flags & (abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE):
            raise fail(errno.EINVAL)
        source = self._ioas(command.src_ioas_id)
        if not command.length:
            raise fail(errno.EINVAL)
        if command.src_iova + command.length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        slices = source.slices(command.src_iova, command.src_iova + command.length - 1)
        target = self._ioas(command.dst_ioas_id)
        iova = command.dst_iova
        if not command.flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA:
            iova = target.find_room(slices[0].pages.source.start + slices[0].offset, command.length)
        moved = iova - command.src_iova
        target.insert([replace(area, iova=area.iova + moved, flags=_access_of(command.flags)) for area in slices])
        user.write(struct.pack("<Q", iova), 24)

    def _noiommu_get_pa(self, user: UserMemory, command: abi.iommu_ioas_noiommu_get_pa) -> None:
        refuse(command.flags)
        if not command.length:
            raise fail(errno.EINVAL)
        if command.iova >= _LAST:
            raise fail(errno.EOVERFLOW)
        ioas = self._ioas(command.ioas_id)
        address, length = ioas.physical(command.iova, command.length)
        user.write(struct.pack("<QQ", length, address), 24)

    def _unmap(self, user: UserMemory, command: abi.iommu_ioas_unmap) -> None:
        ioas = self._ioas(command.ioas_id)
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

    def _change_process(self, user: UserMemory, _command: abi.iommu_ioas_change_process) -> None:
        pages = {area.pages for ioas in self._iommufd.objects(IoasState) for area in ioas.areas}
        if any(each.source.file is None for each in pages):
            raise fail(errno.EINVAL)
        change_process(pages, user.process)


def _access_of(flags: int) -> int:
    readable = READ if flags & abi.IOMMU_IOAS_MAP_READABLE else 0
    return readable | (WRITE if flags & abi.IOMMU_IOAS_MAP_WRITEABLE else 0)
