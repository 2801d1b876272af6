"""Viommu: a slice of an IOMMU for one guest, with the devices, events and queues it has there."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.hw_queue import HwQueue
from pyvfio.iommufd.nested_page_table import NestedPageTable
from pyvfio.iommufd.page_table_alloc import buffer_of, invalidate
from pyvfio.iommufd.vdevice import Vdevice
from pyvfio.iommufd.viommu_pages import ViommuPages
from pyvfio.iommufd.virtual_events import VirtualEventQueue
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.device import IommufdDevice
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.iommufd import Iommufd
    from pyvfio.iommufd.page_table import HwPageTable
    from pyvfio.kernel import Kernel


class Viommu(Resource):
    """Tells the IOMMU by what name a guest knows each device, and tells the guest what happened to it.

    type: IOMMU_VIOMMU_TYPE_*. data: the struct of that type, as the driver filled it in. A child of its page table.
    """

    def __init__(self, parent: HwPageTable, device: IommufdDevice, data: DriverData) -> None:
        """See HwPageTable.viommu."""
        self.parent = parent
        self.ioas = parent.ioas
        self.iommufd: Iommufd = parent.iommufd
        self.kernel: Kernel = parent.kernel
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
        self.iommufd.call(
            abi.IOMMU_VIOMMU_ALLOC, argument, f"virtual IOMMU on {parent.name}", {"type": data.type}, meanings
        )
        self.id: int = argument.out_viommu_id
        self.data = buffer.raw
        super().__init__(parent)

    @property
    def name(self) -> str:
        return f"virtual IOMMU {self.id}"

    def device(self, device: IommufdDevice, virtual_id: int) -> Vdevice:
        """Let the guest know device by virtual_id: its stream, device or requester id there. Child of both.

        A device is in one virtual IOMMU at most. Raises VfioError: EEXIST. Source: IOMMU_VDEVICE_ALLOC (Linux 6.13).
        """
        return Vdevice(self, device, virtual_id)

    def nested(
        self, device: IommufdDevice, data: DriverData, *, pasid: bool = False, faults: FaultQueue | None = None
    ) -> NestedPageTable:
        """A page table of the guest's, as HwPageTable.nested: devices attached to it are the guest's, see device()."""
        self._check_open()
        return NestedPageTable(self, device, data, pasid=pasid, faults=faults)

    def event_queue(self, kind: int, depth: int, *, event_size: int | None = None) -> VirtualEventQueue:
        """Queue what the IOMMU reports of the guest's devices, at most depth events. kind: IOMMU_VEVENTQ_TYPE_*.

        event_size: bytes of an event of a kind that linux/iommufd.h has not.
        Raises InvalidArgument, VfioError: EEXIST if there is one. Source: IOMMU_VEVENTQ_ALLOC (Linux 6.15).
        """
        return VirtualEventQueue(self, kind, depth, event_size=event_size)

    def hw_queue(self, kind: int, index: int, iova: int, size: int) -> HwQueue:
        """Let the IOMMU read a queue of the guest's by itself: size bytes at iova, mapped and contiguous in memory.

        kind: IOMMU_HW_QUEUE_TYPE_*; index: which of the guest's. What it lies in cannot be unmapped meanwhile (EBUSY).
        Raises NotMapped, VfioError. Source: IOMMU_HW_QUEUE_ALLOC (Linux 6.17).
        """
        return HwQueue(self, kind, index, iova, size)

    def map(self, offset: int, size: int) -> ViommuPages:
        """Map pages that the driver tells of in data, Tegra241's virtual interface for one: as a whole. Its child.

        Raises InvalidArgument, VfioError: ENXIO where there are none. Source: mmap of /dev/iommu (Linux 6.17).
        """
        return ViommuPages(self, offset, size)

    def invalidate(self, requests: Sequence[DriverData]) -> None:
        """As NestedPageTable.invalidate, for requests that name devices by their virtual ids."""
        self._check_open()
        invalidate(self.iommufd, self.id, self.name, requests)

    def _release(self) -> None:
        if not self._inherited:
            self.iommufd.destroy(self.id, self.name)

    def __repr__(self) -> str:
        return f"<Viommu {self.id} on {self.parent!r}{' closed' if self._closed else ''}>"
