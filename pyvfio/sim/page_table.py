"""Page tables of iommufd, and the commands that work on them. Source: drivers/iommu/iommufd/hw_pagetable.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.command import command_in, refuse
from pyvfio.sim.ioas import WRITE, Area, IoasState
from pyvfio.sim.user import UserMemory, fail, read_memory, write_memory

if TYPE_CHECKING:
    from pyvfio.sim.iommufd import IommufdState

_LAST = (1 << 64) - 1
# What QEMU's VT-d has in its capability and extended capability registers.
_HARDWARE = {
    "intel": (
        abi.IOMMU_HW_INFO_TYPE_INTEL_VTD,
        bytes(abi.iommu_hw_info_vtd(cap_reg=0x00D2_008C_2226_0286, ecap_reg=0xF0_0F5A)),
    )
}


@dataclass(eq=False, slots=True)
class PageTableState:
    """A page table of an address space. automatic: made by an attachment, gone with the last one."""

    id: int
    ioas: IoasState
    automatic: bool
    tracks_dirty: bool = False
    tracking: bool = False
    users: int = 0
    dirty: set[int] = field(default_factory=set)

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        parts = self.ioas.translate(iova, size, flag)
        if parts is not None and self.tracking and flag & WRITE:
            self.dirty.update(range(iova // 4096, (iova + size - 1) // 4096 + 1))
        return parts


@dataclass(eq=False, slots=True)
class BoundDevice:
    """A device that has been bound to the iommufd: another object holds it as long."""

    id: int
    address: str
    table: PageTableState | None = None
    users: int = 1

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        return self.table.translate(iova, size, flag) if self.table else None


class PageTableCommands:
    """Of one iommufd."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        self.commands: dict[int, Callable[[UserMemory], int]] = {
            abi.IOMMU_HWPT_ALLOC: self._hwpt_alloc,
            abi.IOMMU_GET_HW_INFO: self._hw_info,
            abi.IOMMU_HWPT_SET_DIRTY_TRACKING: self._set_dirty_tracking,
            abi.IOMMU_HWPT_GET_DIRTY_BITMAP: self._get_dirty_bitmap,
        }

    def _hwpt_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_alloc, 40)
        refuse(getattr(command, "__reserved"))
        if bool(command.data_type) != bool(command.data_len):
            raise fail(errno.EINVAL)
        if not isinstance(self._iommufd.find(command.dev_id), BoundDevice):
            raise fail(errno.ENOENT)
        parent = self._iommufd.find(command.pt_id)
        # Nesting takes an IOMMU with two stages, and data.
        refuse(isinstance(parent, PageTableState))
        if not isinstance(parent, IoasState):
            raise fail(errno.EINVAL)
        tracks = command.flags & abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        refuse(command.flags & ~(abi.IOMMU_HWPT_ALLOC_NEST_PARENT | abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING))
        # No nesting here, which takes an IOMMU with two stages.
        refuse(
            command.flags & abi.IOMMU_HWPT_ALLOC_NEST_PARENT
            | bool(tracks and not self._iommufd.kernel.iommu_tracks_dirty)
        )
        table = self._iommufd.add_table(parent, automatic=False, tracks_dirty=bool(tracks))
        user.write(struct.pack("<I", table.id), 16)
        return 0

    def _hw_info(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hw_info, 36)
        refuse(command.flags | any(getattr(command, "__reserved")))
        if not isinstance(self._iommufd.find(command.dev_id), BoundDevice):
            raise fail(errno.ENOENT)
        kind, data = _HARDWARE.get(self._iommufd.kernel.iommu, (abi.IOMMU_HW_INFO_TYPE_NONE, b""))
        if command.data_len:
            write_memory(command.data_uptr, data[: command.data_len].ljust(command.data_len, b"\0"))
        user.write(struct.pack("<I", len(data)), 12)
        user.write(struct.pack("<I", kind), 24)
        capabilities = abi.IOMMU_HW_CAP_DIRTY_TRACKING if self._iommufd.kernel.iommu_tracks_dirty else 0
        user.write(struct.pack("<Q", capabilities), 32)
        return 0

    def _set_dirty_tracking(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_set_dirty_tracking, 16)
        refuse(command.flags & ~abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        table = self._iommufd.table(command.hwpt_id)
        refuse(not table.tracks_dirty)
        table.tracking = bool(command.flags)
        if table.tracking:
            table.dirty.clear()
        return 0

    def _get_dirty_bitmap(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hwpt_get_dirty_bitmap, 48)
        refuse(command.flags & ~abi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR | getattr(command, "__reserved"))
        table = self._iommufd.table(command.hwpt_id)
        iova, length, page_size = command.iova, command.length, command.page_size
        if not length:
            raise fail(errno.EINVAL)
        if iova + length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        if (iova | length) % table.ioas.alignment or not page_size or iova % page_size or length % page_size:
            raise fail(errno.EINVAL)
        refuse(not table.tracks_dirty)
        size = -(-length // page_size // 64) * 8 or 8
        bits = int.from_bytes(read_memory(command.data, size), "little")
        hit = {page for page in table.dirty if iova <= page * 4096 < iova + length}
        for page in hit:
            bits |= 1 << (page * 4096 - iova) // page_size
        write_memory(command.data, bits.to_bytes(size, "little"))
        if not command.flags:
            table.dirty -= hit
        return 0
