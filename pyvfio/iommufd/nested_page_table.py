"""NestedPageTable: a first stage that is the program's own, a guest's for example, over a page table of an iommufd."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.object import Translation
from pyvfio.iommufd.page_table_alloc import allocate, invalidate

if TYPE_CHECKING:
    from pyvfio.iommufd.page_table import HwPageTable
    from pyvfio.iommufd.viommu import Viommu


class NestedPageTable(Translation):
    """Translates by tables in the program's memory, and what comes out of them by the page table it stands on.

    Attach devices to it with device.attach(). The kernel does not look at the program's tables: invalidate() what is
    changed in them. parent: the page table or the virtual IOMMU that it was made from, whose child it is. ioas: the
    address space below both.
    """

    parent: HwPageTable | Viommu

    def __init__(
        self,
        parent: HwPageTable | Viommu,
        device: IommufdDevice,
        data: DriverData,
        *,
        pasid: bool = False,
        faults: FaultQueue | None = None,
    ) -> None:
        """Ask the kernel for a page table over parent for devices like device; HwPageTable.nested() describes the rest.

        Raises ClosedError, and VfioError: EOPNOTSUPP where the IOMMU does not nest like this.
        Source: IOMMU_HWPT_ALLOC.
        """
        self.ioas = parent.ioas
        meanings = {
            errno.EOPNOTSUPP: (
                f"the IOMMU behind {device.address} nests no page table described like this",
                "device.hardware_info() tells of which kind it is",
            ),
            errno.EINVAL: (
                "the parent was not made to nest on, or for another IOMMU, or the data is not what its driver takes",
                "Ioas.page_table(device, nest_parent=True), of this device or one beside it",
            ),
        }
        flags = abi.IOMMU_HWPT_ALLOC_PASID if pasid else 0
        operation = f"nest on {parent.name}"
        super().__init__(parent)
        with self._allocation(faults):
            self.id = allocate(device, parent.id, operation, flags=flags, data=data, faults=faults, meanings=meanings)

    @property
    def name(self) -> str:
        """What messages call it: nested page table N."""
        return f"nested page table {self.id}"

    def invalidate(self, requests: Sequence[DriverData]) -> None:
        """Have the IOMMU forget what requests name, in their order. All are of one type, VtdInvalidation for example.

        Raises InvalidArgument for requests of several types, and InvalidationRefused, whose done tells how many were
        carried out before the one that was refused. Source: IOMMU_HWPT_INVALIDATE (Linux 6.8).
        """
        self.require_open()
        invalidate(self.iommufd, self.id, self.name, requests)
