"""Page tables of iommufd, and the commands that work on them. Source: drivers/iommu/iommufd/hw_pagetable.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import command_in, refuse
from pyvfio.sim.iommufd.driver import IommuDriver, UserData
from pyvfio.sim.iommufd.fault_queue import FaultQueueState
from pyvfio.sim.iommufd.io_pagetable import PAGE, WRITE, Area, IoasState
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process.user import UserMemory, fail, read_memory, write_memory

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState

_LAST = (1 << 64) - 1


class PageTable(IommufdObject):
    """A page table of an address space. automatic: made by an attachment, gone with the last one.

    driver: of the IOMMU it is for. faults: where its page faults go, None for nowhere.
    """

    def __init__(self, ioas: IoasState, driver: IommuDriver, flags: int, data: UserData | None) -> None:
        """flags: IOMMU_HWPT_ALLOC_*. Raises OSError as the driver and adding a domain do."""
        super().__init__()
        self.ioas = ioas
        self.driver = driver
        self.automatic = False
        self.is_nest_parent = bool(flags & abi.IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.tracks_dirty = bool(flags & abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        self.takes_pasids = bool(flags & abi.IOMMU_HWPT_ALLOC_PASID)
        self.tracking = False
        self.faults: FaultQueueState | None = None
        self.domain = driver.domain(flags, data)
        ioas.add_domain(self.domain)
        ioas.users += 1

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        parts = self.ioas.translate(iova, size, flag)
        if parts is not None and self.tracking and flag & WRITE:
            self.domain.dirty.update(range(iova // PAGE, (iova + size - 1) // PAGE + 1))
        return parts

    def release(self) -> None:
        self.ioas.remove_domain(self.domain)
        self.ioas.users -= 1
        if self.faults is not None:
            self.faults.users -= 1


class PageTableCommands:
    """Of one iommufd. Nested page tables are made by the same command: see nested.py."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        version = iommufd.kernel.version
        self.commands: dict[int, Callable[[UserMemory], int]] = {abi.IOMMU_GET_HW_INFO: self._hw_info}
        if version >= (6, 7):
            self.commands[abi.IOMMU_HWPT_SET_DIRTY_TRACKING] = self._set_dirty_tracking
            self.commands[abi.IOMMU_HWPT_GET_DIRTY_BITMAP] = self._get_dirty_bitmap

    def _hw_info(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hw_info, 32)
        has_input = command.flags & abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE and self._iommufd.kernel.version >= (6, 17)
        refuse(command.flags & ~(abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE if has_input else 0))
        refuse(any(getattr(command, "__reserved")))
        driver = self._iommufd.device(command.dev_id).driver
        kind, data = driver.hardware(command.in_data_type if has_input else abi.IOMMU_HW_INFO_TYPE_DEFAULT)
        if command.data_len:
            write_memory(command.data_uptr, data[: command.data_len].ljust(command.data_len, b"\0"))
        user.write(struct.pack("<I", len(data)), 12)
        user.write(struct.pack("<I", kind), 24)
        user.write(bytes([driver.max_pasid_log2]), 28)
        capabilities = abi.IOMMU_HW_CAP_DIRTY_TRACKING if driver.tracks_dirty else 0
        if self._iommufd.kernel.version >= (7, 0):
            # No device here has address translation services.
            capabilities |= abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
        user.write(struct.pack("<Q", capabilities), 32)
        return 0

    def _set_dirty_tracking(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_set_dirty_tracking, 16)
        refuse(command.flags & ~abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        table = self._iommufd.get(command.hwpt_id, PageTable)
        refuse(not table.tracks_dirty)
        table.tracking = bool(command.flags)
        if table.tracking:
            table.domain.dirty.clear()
        return 0

    def _get_dirty_bitmap(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_get_dirty_bitmap, 48)
        refuse(command.flags & ~abi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR | getattr(command, "__reserved"))
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
        return 0
