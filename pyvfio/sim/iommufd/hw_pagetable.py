"""The commands of iommufd that make page tables and work on them. Source: drivers/iommu/iommufd/hw_pagetable.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import Command, refuse
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.device import BoundDevice
from pyvfio.sim.iommufd.driver import Batch, IommuDriver, UserData
from pyvfio.sim.iommufd.eventq import FaultQueueState
from pyvfio.sim.iommufd.io_pagetable import IoasState
from pyvfio.sim.iommufd.page_tables import NestedTable, PageTable
from pyvfio.sim.iommufd.viommu import VirtualIommu
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import UserMemory, fail, read_memory, write_memory

_LAST = (1 << 64) - 1
_MOST_REQUESTS = 1 << 19
_NESTED_FLAGS = abi.IOMMU_HWPT_FAULT_ID_VALID | abi.IOMMU_HWPT_ALLOC_PASID
# The first Linux that has each flag.
_FLAGS = {
    abi.IOMMU_HWPT_ALLOC_NEST_PARENT: (6, 7),
    abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING: (6, 7),
    abi.IOMMU_HWPT_FAULT_ID_VALID: (6, 11),
    abi.IOMMU_HWPT_ALLOC_PASID: (6, 15),
}


class PageTableCommands:
    """The commands of an iommufd."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self._version = iommufd.machine.version
        self._flags = sum(flag for flag, since in _FLAGS.items() if self._version >= since)
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_GET_HW_INFO: Command(abi.iommu_hw_info, 32, self._hw_info),
            abi.IOMMU_HWPT_ALLOC: Command(abi.iommu_hwpt_alloc, 24, self._alloc, since=(6, 6)),
            abi.IOMMU_HWPT_SET_DIRTY_TRACKING: Command(
                abi.iommu_hwpt_set_dirty_tracking, 16, self._set_dirty_tracking, since=(6, 7), ignores_reserved=True
            ),
            abi.IOMMU_HWPT_GET_DIRTY_BITMAP: Command(
                abi.iommu_hwpt_get_dirty_bitmap, 48, self._get_dirty_bitmap, since=(6, 7)
            ),
            abi.IOMMU_HWPT_INVALIDATE: Command(
                abi.iommu_hwpt_invalidate,
                32,
                self._invalidate,
                since=(6, 8),
                when_reserved=partial(_tell_done, done=0),
            ),
        }

    def _hw_info(self, user: UserMemory, command: abi.iommu_hw_info) -> None:
        has_input = command.flags & abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE and self._version >= (6, 17)
        refuse(command.flags & ~(abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE if has_input else 0))
        driver = self._iommufd.get(command.dev_id, BoundDevice).driver
        kind, data = driver.hardware(command.in_data_type if has_input else abi.IOMMU_HW_INFO_TYPE_DEFAULT)
        if command.data_len:
            write_memory(command.data_uptr, data[: command.data_len].ljust(command.data_len, b"\0"))
        user.write(struct.pack("<I", len(data)), 12)
        user.write(struct.pack("<I", kind), 24)
        user.write(bytes([driver.max_pasid_log2]), 28)
        capabilities = abi.IOMMU_HW_CAP_DIRTY_TRACKING if driver.tracks_dirty else 0
        if self._version >= (7, 0):
            # No device here has address translation services.
            capabilities |= abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
        user.write(struct.pack("<Q", capabilities), 32)

    def _set_dirty_tracking(self, _user: UserMemory, command: abi.iommu_hwpt_set_dirty_tracking) -> None:
        refuse(command.flags & ~abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        table = self._iommufd.get(command.hwpt_id, PageTable)
        refuse(not table.tracks_dirty)
        table.tracking = bool(command.flags)
        if table.tracking:
            table.domain.dirty.clear()

    def _get_dirty_bitmap(self, _user: UserMemory, command: abi.iommu_hwpt_get_dirty_bitmap) -> None:
        refuse(command.flags & ~abi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR)
        table = self._iommufd.get(command.hwpt_id, PageTable)
        iova, length, page_size = command.iova, command.length, command.page_size
        if not length:
            raise fail(errno.EINVAL)
        if iova + length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        if (iova | length) % table.ioas.alignment or not page_size or (iova | iova + length) & (page_size - 1):
            raise fail(errno.EINVAL)
        refuse(not table.tracks_dirty)
        size = -(-length // page_size // 64) * 8 or 8
        bits = int.from_bytes(read_memory(command.data, size), "little")
        end = min(table.ioas.reach(iova), iova + length)
        hit = {page for page in table.domain.dirty if iova <= page * PAGE < end}
        for page in hit:
            first, last = ((page * PAGE + offset - iova) // page_size for offset in (0, PAGE - 1))
            bits |= (1 << last + 1) - (1 << first)
        write_memory(command.data, bits.to_bytes(size, "little"))
        if not command.flags:
            table.domain.dirty -= hit

    def _alloc(self, user: UserMemory, command: abi.iommu_hwpt_alloc) -> None:
        if bool(command.data_type) != bool(command.data_len):
            raise fail(errno.EINVAL)
        driver = self._iommufd.get(command.dev_id, BoundDevice).driver
        data = UserData(command.data_type, command.data_uptr, command.data_len)
        match self._iommufd.find(command.pt_id):
            case IoasState() as ioas:
                table: PageTable | NestedTable = self._paging(ioas, driver, command.flags, data)
            case (PageTable() | VirtualIommu()) as parent:
                table = self._nested(parent, driver, command.flags, data)
            case _:
                raise fail(errno.EINVAL)
        try:
            if command.flags & abi.IOMMU_HWPT_FAULT_ID_VALID:
                table.faults = self._iommufd.get(command.fault_id, FaultQueueState)
                table.faults.users += 1
        except OSError:
            table.destroy()
            raise
        user.write(struct.pack("<I", self._iommufd.add(table)), 16)

    def _paging(self, ioas: IoasState, driver: IommuDriver, flags: int, data: UserData) -> PageTable:
        refuse(flags & ~self._flags)
        refuse(flags & abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING and not driver.tracks_dirty)
        refuse(flags & abi.IOMMU_HWPT_FAULT_ID_VALID and flags & abi.IOMMU_HWPT_ALLOC_NEST_PARENT)
        return PageTable(ioas, driver, flags & ~abi.IOMMU_HWPT_FAULT_ID_VALID, data if data.size else None)

    def _nested(self, parent: PageTable | VirtualIommu, driver: IommuDriver, flags: int, data: UserData) -> NestedTable:
        if isinstance(parent, VirtualIommu) and parent.driver.owner is not driver.owner:
            raise fail(errno.EINVAL)
        refuse(flags & ~(_NESTED_FLAGS & self._flags) | (not data.size))
        flags &= ~abi.IOMMU_HWPT_FAULT_ID_VALID
        if isinstance(parent, VirtualIommu):
            return NestedTable(parent, parent.driver, parent.hardware.nested(flags, data), flags)
        refuse(not driver.nests)
        if parent.automatic or not parent.is_nest_parent or parent.driver.owner is not driver.owner:
            raise fail(errno.EINVAL)
        return NestedTable(parent, parent.driver, driver.nested(flags, data), flags)

    def _invalidate(self, user: UserMemory, command: abi.iommu_hwpt_invalidate) -> None:
        batch = Batch(command.data_type, command.data_uptr, command.entry_len, command.entry_num)
        try:
            if batch.entry_num and not (batch.address and 0 < batch.entry_len <= PAGE):
                raise fail(errno.EINVAL)
            if batch.entry_num > _MOST_REQUESTS:
                raise fail(errno.EINVAL)
            match self._iommufd.find(command.hwpt_id):
                case (NestedTable() | VirtualIommu()) as target:
                    target.invalidate(batch)
                case None:
                    raise fail(errno.ENOENT)
                case _:
                    raise fail(errno.EINVAL)
        finally:
            _tell_done(user, batch.done)


def _tell_done(user: UserMemory, done: int) -> None:
    """Of an invalidation, also of one that fails: how many requests have been carried out."""
    user.write(struct.pack("<I", done), 24)
