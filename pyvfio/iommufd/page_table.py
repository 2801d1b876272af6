"""HwPageTable: an IO page table made on purpose: for dirty tracking, nesting, page faults or PASIDs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.nested_page_table import NestedPageTable
from pyvfio.iommufd.page_table_alloc import allocate
from pyvfio.iommufd.page_table_dirty import PageTableDirtyTracking
from pyvfio.iommufd.viommu import Viommu
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.device import IommufdDevice
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.iommufd.iommufd import Iommufd
    from pyvfio.kernel import Kernel


class HwPageTable(Resource):
    """Holds all that its address space maps, for devices behind one kind of IOMMU. Attach them with device.attach()."""

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
        """See Ioas.page_table."""
        self.ioas = ioas
        self.iommufd: Iommufd = ioas.iommufd
        self.kernel: Kernel = ioas.kernel
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
        name = f"page table of {ioas.name}"
        self.id: int = allocate(device, ioas.id, name, flags=flags, data=data, faults=faults, meanings=meanings)
        super().__init__(ioas)
        if faults is not None:
            self._need(faults)
        # It may take less than what was there before.
        ioas._layout_changed()

    @property
    def name(self) -> str:
        return f"page table {self.id} of {self.ioas.name}"

    def track_dirty(self) -> PageTableDirtyTracking:
        """Begin to note which pages devices attached to it write; close it to end that.

        Raises VfioError (EOPNOTSUPP) unless it was made with dirty_tracking. Source: IOMMU_HWPT_SET_DIRTY_TRACKING.
        """
        self._check_open()
        return PageTableDirtyTracking(self)

    def nested(
        self, device: IommufdDevice, data: DriverData, *, pasid: bool = False, faults: FaultQueue | None = None
    ) -> NestedPageTable:
        """Let devices like device translate by tables of the program's own first, which data describes, then by this.

        data: VtdStage1, ArmSmmuv3Stage1, AmdGuest or, for what they are not, RawData. pasid, faults: as in
        Ioas.page_table. This must have been made with nest_parent; the nested page table is its child.
        Raises VfioError: EOPNOTSUPP where the IOMMU does not nest like this. Source: IOMMU_HWPT_ALLOC (Linux 6.7).
        """
        self._check_open()
        return NestedPageTable(self, device, data, pasid=pasid, faults=faults)

    def viommu(self, device: IommufdDevice, data: DriverData) -> Viommu:
        """A virtual IOMMU for one guest, of the IOMMU behind device, over this: made with nest_parent. Its child.

        data: of a type of IOMMU_VIOMMU_TYPE_*, with the struct of that type if it has one: RawData.
        Raises VfioError: EOPNOTSUPP where the IOMMU has none of the type. Source: IOMMU_VIOMMU_ALLOC (Linux 6.13).
        """
        self._check_open()
        return Viommu(self, device, data)

    def _devices_changed(self, device: IommufdDevice) -> None:
        self.ioas._devices_changed(device)

    def _release(self) -> None:
        if not self._inherited:
            for device in tuple(self.ioas._attached):
                device._leave(self)
            self.iommufd.destroy(self.id, self.name)
            self.ioas._layout_changed()

    def __repr__(self) -> str:
        return f"<HwPageTable {self.id} of {self.ioas!r}{' closed' if self._closed else ''}>"
