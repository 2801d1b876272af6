"""Viommu: a slice of an IOMMU for one guest, with the devices, events and queues it has there."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.hw_queue import HwQueue
from pyvfio.iommufd.nested_page_table import NestedPageTable
from pyvfio.iommufd.object import IommufdObject
from pyvfio.iommufd.page_table_alloc import buffer_of, invalidate
from pyvfio.iommufd.viommu_pages import ViommuPages
from pyvfio.iommufd.virtual_events import VirtualEventQueue

if TYPE_CHECKING:
    from pyvfio.iommufd.page_table import HwPageTable


class Viommu(IommufdObject):
    """Tells the IOMMU by what name a guest knows each device, and tells the guest what happened to it.

    parent: the page table that it was made from, whose child it is. ioas: the address space of that page table. type:
    its IOMMU_VIOMMU_TYPE_*. data: the bytes of the struct of that type, as the IOMMU's driver filled it in.
    """

    parent: HwPageTable

    def __init__(self, parent: HwPageTable, device: IommufdDevice, data: DriverData) -> None:
        """Ask the kernel for a virtual IOMMU over parent. HwPageTable.viommu() makes one, and describes data.

        Raises ClosedError, and VfioError: EOPNOTSUPP where the IOMMU behind device has none of the type.
        Source: IOMMU_VIOMMU_ALLOC (Linux 6.13).
        """
        self.ioas = parent.ioas
        self.type = data.type
        buffer = buffer_of(data)
        argument = abi.iommu_viommu_alloc(type=data.type, dev_id=device.id, hwpt_id=parent.id, data_len=len(buffer))
        argument.data_uptr = ctypes.addressof(buffer) if len(buffer) else 0
        meanings = {
            errno.EOPNOTSUPP: (
                f"the IOMMU behind {device.address} has no virtual IOMMU of this type",
                "device.hardware_info() tells of which kind it is",
            ),
            errno.EINVAL: (
                "the page table was not made to nest on, or the data is not what the driver takes",
                "Ioas.page_table(device, nest_parent=True)",
            ),
        }
        operation = f"virtual IOMMU on {parent.name}"
        super().__init__(parent)
        with self._allocation():
            self.iommufd.call(abi.IOMMU_VIOMMU_ALLOC, argument, operation, {"type": data.type}, meanings)
            self.id = argument.out_viommu_id
        self.data = buffer.raw

    @property
    def name(self) -> str:
        """What messages call it: virtual IOMMU N."""
        return f"virtual IOMMU {self.id}"

    def device(self, device: IommufdDevice, virtual_id: int) -> Vdevice:
        """Let the guest know device by virtual_id: its stream, device or requester id there.

        The result is a child of both this and device. A device can be in one virtual IOMMU only.
        Raises VfioError: EEXIST for an id that is taken, or a device that is in a virtual IOMMU already.
        Source: IOMMU_VDEVICE_ALLOC (Linux 6.13).
        """
        return Vdevice(self, device, virtual_id)

    def nested(
        self, device: IommufdDevice, data: DriverData, *, pasid: bool = False, faults: FaultQueue | None = None
    ) -> NestedPageTable:
        """Make a page table of the guest's, as HwPageTable.nested does, for devices that are in this virtual IOMMU.

        data, pasid, faults and what is raised: as for HwPageTable.nested. The device has to be in the virtual IOMMU,
        by device(), before it can be attached. The page table is this object's child.
        """
        self.require_open()
        return NestedPageTable(self, device, data, pasid=pasid, faults=faults)

    def event_queue(self, kind: int, depth: int, *, event_size: int | None = None) -> VirtualEventQueue:
        """Queue what the IOMMU reports about the guest's devices. The queue holds depth events, and is a child of this.

        kind: an IOMMU_VEVENTQ_TYPE_*. event_size: the bytes of one event, for a kind that pyvfio has no struct for.
        Raises InvalidArgument, and VfioError: EEXIST if there is a queue of this kind.
        Source: IOMMU_VEVENTQ_ALLOC (Linux 6.15).
        """
        return VirtualEventQueue(self, kind, depth, event_size=event_size)

    def hw_queue(self, kind: int, index: int, iova: int, size: int) -> HwQueue:
        """Let the IOMMU read a queue of the guest's by itself: size bytes at iova, mapped and contiguous in memory.

        kind: an IOMMU_HW_QUEUE_TYPE_*. index: which of the guest's queues of that kind it is. The memory cannot be
        unmapped until the queue is closed (EBUSY). The queue is a child of this.
        Raises NotMapped, and VfioError: EEXIST if there is one of this index. Source: IOMMU_HW_QUEUE_ALLOC
        (Linux 6.17).
        """
        return HwQueue(self, kind, index, iova, size)

    def map(self, offset: int, size: int) -> ViommuPages:
        """Map pages of registers that the driver tells of in data, as Tegra241's does. They are mapped as a whole.

        offset and size: bytes, both from data. The result is a child of this. Raises InvalidArgument, and VfioError:
        ENXIO where there are no such pages. Source: mmap of /dev/iommu (Linux 6.17).
        """
        return ViommuPages(self, offset, size)

    def invalidate(self, requests: Sequence[DriverData]) -> None:
        """Have the IOMMU forget what requests name, in their order; they name devices by their virtual ids.

        All are of one type, ArmSmmuv3Invalidation for example. Raises InvalidArgument for requests of several types,
        and InvalidationRefused, whose done tells how many were carried out before the one that was refused.
        Source: IOMMU_HWPT_INVALIDATE (Linux 6.13).
        """
        self.require_open()
        invalidate(self.iommufd, self.id, self.name, requests)


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
