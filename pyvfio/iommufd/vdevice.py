"""Vdevice: a device as a guest's IOMMU knows it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.device import IommufdDevice
    from pyvfio.iommufd.viommu import Viommu


class Vdevice(Resource):
    """device is known by virtual_id in viommu until this is closed, which it is before either of them."""

    def __init__(self, viommu: Viommu, device: IommufdDevice, virtual_id: int) -> None:
        """See Viommu.device."""
        viommu._check_open()
        device._check_open()
        self.viommu = viommu
        self.device = device
        self.virtual_id = virtual_id
        self.iommufd = viommu.iommufd
        argument = abi.iommu_vdevice_alloc(viommu_id=viommu.id, dev_id=device.id, virt_id=virtual_id)
        meanings = {
            errno.EEXIST: ("the id is taken, or the device is in a virtual IOMMU already", "Close that first"),
            errno.EINVAL: (
                "the device is behind another IOMMU than the virtual one is of",
                "Make one of its own for it",
            ),
        }
        operation = f"{device.address} in {viommu.name}"
        self.iommufd.call(abi.IOMMU_VDEVICE_ALLOC, argument, operation, {"virtual_id": virtual_id}, meanings)
        self.id = argument.out_vdevice_id
        super().__init__(viommu)
        self._need(device)

    def _release(self) -> None:
        if not self._inherited:
            self.iommufd.destroy(self.id, f"{self.device.address} in {self.viommu.name}")

    def __repr__(self) -> str:
        return f"<Vdevice {self.virtual_id:#x} in {self.viommu!r}{' closed' if self._closed else ''}>"
