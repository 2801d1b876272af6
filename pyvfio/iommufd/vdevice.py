"""Vdevice: a device as a guest's IOMMU knows it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.object import IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


class Vdevice(IommufdObject):
    """Makes device known by virtual_id in viommu, until it is closed. It is a child of both, and is closed before them.

    viommu: the virtual IOMMU. device: the device. virtual_id: its stream, device or requester id in the guest.
    """

    def __init__(self, viommu: Viommu, device: IommufdDevice, virtual_id: int) -> None:
        """Ask the kernel for it. Viommu.device() makes one.

        Raises ClosedError, and VfioError: EEXIST for an id that is taken, or a device that is in a virtual IOMMU
        already. Source: IOMMU_VDEVICE_ALLOC (Linux 6.13).
        """
        device.require_open()
        self.viommu = viommu
        self.device = device
        self.virtual_id = virtual_id
        argument = abi.iommu_vdevice_alloc(viommu_id=viommu.id, dev_id=device.id, virt_id=virtual_id)
        meanings = {
            errno.EEXIST: ("the id is taken, or the device is in a virtual IOMMU already", "Close that first"),
            errno.EINVAL: (
                "the device is behind another IOMMU than the virtual one is of",
                "Make one of its own for it",
            ),
        }
        super().__init__(viommu)
        with self._allocation(device):
            self.iommufd.call(abi.IOMMU_VDEVICE_ALLOC, argument, self.name, {"virtual_id": virtual_id}, meanings)
            self.id = argument.out_vdevice_id

    @property
    def name(self) -> str:
        """What messages call it: ADDRESS in virtual IOMMU N."""
        return f"{self.device.address} in {self.viommu.name}"
