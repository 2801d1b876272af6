"""Nested page tables of iommufd, whose first stage is the program's own, and the command that makes page tables.

Source: drivers/iommu/iommufd/hw_pagetable.c.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import command_in, refuse
from pyvfio.sim.iommufd.driver import Batch, IommuDriver, NestedHardware, UserData
from pyvfio.sim.iommufd.fault_queue import FaultQueueState
from pyvfio.sim.iommufd.hw_pagetable import PageTable
from pyvfio.sim.iommufd.io_pagetable import PAGE, IoasState
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.viommu import VirtualIommu
from pyvfio.sim.process.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState

_MOST_REQUESTS = 1 << 19
_NESTED_FLAGS = abi.IOMMU_HWPT_FAULT_ID_VALID | abi.IOMMU_HWPT_ALLOC_PASID


class NestedTable(IommufdObject):
    """parent: the page table below it, or the virtual IOMMU that has one. flags: IOMMU_HWPT_ALLOC_*."""

    def __init__(self, parent: PageTable | VirtualIommu, hardware: NestedHardware, flags: int) -> None:
        super().__init__()
        self.driver = parent.driver
        self.hardware = hardware
        self.takes_pasids = bool(flags & abi.IOMMU_HWPT_ALLOC_PASID)
        self.faults: FaultQueueState | None = None
        self._parent = parent
        parent.users += 1

    def invalidate(self, batch: Batch) -> None:
        self.hardware.invalidate(batch)

    def release(self) -> None:
        self._parent.users -= 1
        if self.faults is not None:
            self.faults.users -= 1


class NestingCommands:
    """Of one iommufd."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        version = iommufd.kernel.version
        self.commands: dict[int, Callable[[UserMemory], int]] = {}
        if version >= (6, 6):
            self.commands[abi.IOMMU_HWPT_ALLOC] = self._hwpt_alloc
        if version >= (6, 8):
            self.commands[abi.IOMMU_HWPT_INVALIDATE] = self._invalidate
        since = {
            abi.IOMMU_HWPT_ALLOC_NEST_PARENT: (6, 7),
            abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING: (6, 7),
            abi.IOMMU_HWPT_FAULT_ID_VALID: (6, 11),
            abi.IOMMU_HWPT_ALLOC_PASID: (6, 15),
        }
        self._flags = sum(flag for flag, first in since.items() if version >= first)

    def _hwpt_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_alloc, 24)
        refuse(getattr(command, "__reserved"))
        if bool(command.data_type) != bool(command.data_len):
            raise fail(errno.EINVAL)
        driver = self._iommufd.device(command.dev_id).driver
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
            table.release()
            raise
        user.write(struct.pack("<I", self._iommufd.add(table)), 16)
        return 0

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
            return NestedTable(parent, parent.hardware.nested(flags, data), flags)
        refuse(not driver.nests)
        if parent.automatic or not parent.is_nest_parent or parent.driver.owner is not driver.owner:
            raise fail(errno.EINVAL)
        return NestedTable(parent, driver.nested(flags, data), flags)

    def _invalidate(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_invalidate, 32)
        batch = Batch(command.data_type, command.data_uptr, command.entry_len, command.entry_num)
        try:
            refuse(getattr(command, "__reserved"))
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
            user.write(struct.pack("<I", batch.done), 24)
        return 0
