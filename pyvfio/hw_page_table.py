"""HwPageTable: an IO page table made on purpose, for dirty tracking or nesting."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.page_table_dirty import PageTableDirtyTracking
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.ioas import Ioas
    from pyvfio.iommufd_device import IommufdDevice


class HwPageTable(Resource):
    """Holds all that its address space maps, for devices behind one kind of IOMMU. Attach them with device.attach()."""

    def __init__(self, ioas: Ioas, device: IommufdDevice, *, dirty_tracking: bool, nest_parent: bool) -> None:
        """See Ioas.page_table."""
        self.ioas = ioas
        self.iommufd = ioas.iommufd
        self.kernel = ioas.kernel
        flags = abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING if dirty_tracking else 0
        flags |= abi.IOMMU_HWPT_ALLOC_NEST_PARENT if nest_parent else 0
        argument = abi.iommu_hwpt_alloc(flags=flags, dev_id=device.id, pt_id=ioas.id)
        meanings = {
            errno.EOPNOTSUPP: (
                f"the IOMMU behind {device.address} has no such page table",
                "hardware_info().capabilities tells what it has",
            ),
            errno.EADDRINUSE: ("the IOMMU cannot translate addresses that are mapped", "Unmap them first"),
        }
        self.iommufd.call(abi.IOMMU_HWPT_ALLOC, argument, f"page table of {ioas.name}", {"flags": flags}, meanings)
        self.id = argument.out_hwpt_id
        super().__init__(ioas)

    @property
    def name(self) -> str:
        return f"page table {self.id} of {self.ioas.name}"

    def track_dirty(self) -> PageTableDirtyTracking:
        """Begin to note which pages devices attached to it write; close it to end that.

        Raises VfioError (EOPNOTSUPP) unless it was made with dirty_tracking. Source: IOMMU_HWPT_SET_DIRTY_TRACKING.
        """
        self._check_open()
        return PageTableDirtyTracking(self)

    def _devices_changed(self, device: IommufdDevice) -> None:
        self.ioas._devices_changed(device)

    def _release(self) -> None:
        if not self._inherited:
            for device in tuple(self.ioas._attached):
                device._leave(self)
            self.iommufd.destroy(self.id, self.name)

    def __repr__(self) -> str:
        return f"<HwPageTable {self.id} of {self.ioas!r}{' closed' if self._closed else ''}>"
