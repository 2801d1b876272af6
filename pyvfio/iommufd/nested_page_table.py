"""NestedPageTable: a first stage that is the program's own, a guest's for instance, over a page table of iommufd."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.page_table_alloc import allocate, invalidate
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.device import IommufdDevice
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.page_table import HwPageTable
    from pyvfio.iommufd.viommu import Viommu


class NestedPageTable(Resource):
    """Translates by tables in the program's memory, and what comes out of them by the page table it stands on.

    Attach devices to it with device.attach(). The kernel does not look at the program's tables: what is changed in
    them has to be invalidated. Child of what it was made from.
    """

    def __init__(
        self,
        parent: HwPageTable | Viommu,
        device: IommufdDevice,
        data: DriverData,
        *,
        pasid: bool = False,
        faults: FaultQueue | None = None,
    ) -> None:
        """See HwPageTable.nested."""
        self.parent = parent
        self.ioas = parent.ioas
        self.iommufd = parent.iommufd
        self.kernel = parent.kernel
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
        self.id = allocate(
            device,
            parent.id,
            f"nest on {parent.name}",
            flags=abi.IOMMU_HWPT_ALLOC_PASID if pasid else 0,
            data=data,
            faults=faults,
            meanings=meanings,
        )
        super().__init__(parent)
        if faults is not None:
            self._need(faults)

    @property
    def name(self) -> str:
        return f"nested page table {self.id}"

    def invalidate(self, requests: Sequence[DriverData]) -> None:
        """Let the IOMMU forget what requests name, in order; all of one type, like VtdInvalidation.

        Raises InvalidArgument, and InvalidationRefused, whose done tells how many were carried out before the one that
        was refused. Source: IOMMU_HWPT_INVALIDATE (Linux 6.8).
        """
        self._check_open()
        invalidate(self.iommufd, self.id, self.name, requests)

    def _devices_changed(self, device: IommufdDevice) -> None:
        self.ioas._devices_changed(device)

    def _release(self) -> None:
        if not self._inherited:
            for device in tuple(self.ioas._attached):
                device._leave(self)
            self.iommufd.destroy(self.id, self.name)

    def __repr__(self) -> str:
        return f"<NestedPageTable {self.id} on {self.parent!r}{' closed' if self._closed else ''}>"
