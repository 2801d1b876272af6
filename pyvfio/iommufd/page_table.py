"""HwPageTable: an IO page table made on purpose: for dirty tracking, nesting, page faults or PASIDs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.dma import tracks_already
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.nested_page_table import NestedPageTable
from pyvfio.iommufd.object import Translation
from pyvfio.iommufd.page_table_alloc import allocate
from pyvfio.iommufd.page_table_dirty import PageTableDirtyTracking
from pyvfio.iommufd.viommu import Viommu

if TYPE_CHECKING:
    from pyvfio.iommufd.ioas import Ioas


class HwPageTable(Translation):
    """Holds all that its address space maps, for devices behind one kind of IOMMU. Attach them with device.attach().

    ioas: the address space, whose child it is. Ioas.page_table() makes one.
    """

    def __init__(
        self,
        ioas: Ioas,
        device: IommufdDevice,
        *,
        dirty_tracking: bool = False,
        nest_parent: bool = False,
        pasid: bool = False,
        faults: FaultQueue | None = None,
        data: DriverData | None = None,
    ) -> None:
        """Ask the kernel for a page table of ioas for devices like device; Ioas.page_table() describes the options.

        Raises ClosedError, and VfioError: EOPNOTSUPP where the IOMMU has no such page table.
        Source: IOMMU_HWPT_ALLOC.
        """
        self.ioas = ioas
        flags = abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING if dirty_tracking else 0
        flags |= abi.IOMMU_HWPT_ALLOC_NEST_PARENT if nest_parent else 0
        flags |= abi.IOMMU_HWPT_ALLOC_PASID if pasid else 0
        meanings = {
            errno.EOPNOTSUPP: (
                f"the IOMMU behind {device.address} has no such page table",
                "hardware_info().capabilities tells what it has",
            ),
            errno.EADDRINUSE: ("the IOMMU cannot translate addresses that are mapped", "Unmap them first"),
        }
        operation = f"page table of {ioas.name}"
        super().__init__(ioas)
        with self._allocation(faults):
            self.id = allocate(device, ioas.id, operation, flags=flags, data=data, faults=faults, meanings=meanings)
            # Its IOMMU may translate fewer addresses than those before it.
            self.iommufd.attachments.changed()

    @property
    def name(self) -> str:
        """What messages call it: page table N of IOAS M."""
        return f"page table {self.id} of {self.ioas.name}"

    def track_dirty(self) -> PageTableDirtyTracking:
        """Begin to note which pages the devices attached to it write; closing the result ends that. There is one at a
        time.

        Raises DeviceBusy while there is one, VfioError: EOPNOTSUPP unless it was made with dirty_tracking.
        Source: IOMMU_HWPT_SET_DIRTY_TRACKING.
        """
        with self._lock:
            self.require_open()
            if any(isinstance(child, PageTableDirtyTracking) for child in self._children):
                raise tracks_already(self.name)
            return PageTableDirtyTracking(self)

    @property
    def may_hold_mappings(self) -> bool:
        return self.ioas.may_hold_mappings

    def nested(
        self, device: IommufdDevice, data: DriverData, *, pasid: bool = False, faults: FaultQueue | None = None
    ) -> NestedPageTable:
        """Make a page table with which devices like device translate by the program's own tables first, then by this.

        data: where and what those tables are: a VtdStage1, ArmSmmuv3Stage1 or AmdGuest, or RawData for another IOMMU.
        pasid, faults: as for Ioas.page_table. This page table must have been made with nest_parent; the nested one is
        its child. Raises VfioError: EOPNOTSUPP where the IOMMU does not nest like this.
        Source: IOMMU_HWPT_ALLOC (Linux 6.7).
        """
        self.require_open()
        return NestedPageTable(self, device, data, pasid=pasid, faults=faults)

    def viommu(self, device: IommufdDevice, data: DriverData) -> Viommu:
        """Make a virtual IOMMU for one guest, from the IOMMU behind device. It is this page table's child.

        data: its type is an IOMMU_VIOMMU_TYPE_*, its bytes are the struct of that type if there is one; RawData has
        both. This page table must have been made with nest_parent. Raises VfioError: EOPNOTSUPP where the IOMMU has no
        virtual one of that type. Source: IOMMU_VIOMMU_ALLOC (Linux 6.13).
        """
        self.require_open()
        return Viommu(self, device, data)

    def _destroy(self) -> None:
        super()._destroy()
        self.iommufd.attachments.changed()
