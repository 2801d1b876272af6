"""Virtual IOMMUs, their event queues and their hardware queues. Source: drivers/iommu/iommufd/viommu.c, eventq.c."""

from __future__ import annotations

import errno
import struct

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommu import Span
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.driver import Batch, IommuDriver, QueueHardware, ViommuHardware
from pyvfio.sim.iommufd.eventq import EventQueue
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.page_tables import PageTable
from pyvfio.sim.process import fail

_HEADER = 8


class VirtualIommu(IommufdObject):
    """A slice of an IOMMU for one guest, over the page table parent. hardware: what the driver made of it.

    devices: the drivers of its devices, by virtual id. events: its queues of events, by type.
    """

    def __init__(self, iommufd: IommufdContext, parent: PageTable, hardware: ViommuHardware) -> None:
        super().__init__()
        self._iommufd = iommufd
        self.driver = parent.driver
        self.ioas = parent.ioas
        self.hardware = hardware
        self.devices: dict[int, IommuDriver] = {}
        self.events: dict[int, VirtualEvents] = {}
        self._parent = parent
        parent.users += 1

    def invalidate(self, batch: Batch) -> None:
        """Carry out requests of the program. Raises OSError as the driver does."""
        self.hardware.invalidate(self.devices, batch)

    def destroy(self) -> None:
        self._iommufd.pages.remove(self)
        self._parent.users -= 1


class VirtualEvents(EventQueue):
    """Events of one type, at most depth of them. If there are more, a header alone tells that some were lost."""

    def __init__(self, iommufd: IommufdContext, viommu: VirtualIommu, kind: int, depth: int) -> None:
        super().__init__(iommufd)
        self._viommu = viommu
        self._kind = kind
        self._depth = depth
        self._next = 0
        # The sequence number and the data of each. None for data: events were lost, which only the last one tells.
        self._events: list[tuple[int, bytes | None]] = []
        viommu.users += 1
        viommu.events[kind] = self

    @property
    def is_empty(self) -> bool:
        return not self._events

    def report(self, data: bytes) -> None:
        """An event has happened. data: what follows the header."""
        held = sum(event is not None for _, event in self._events)
        if self._events and self._events[-1][1] is None:
            self._events.pop()
        self._events.append((self._next, data if held < self._depth else None))
        self._next = (self._next + 1) & (1 << 31) - 1
        self._show()

    def read(self, size: int) -> bytes:
        if size < _HEADER:
            raise fail(errno.EINVAL)
        told = b""
        while self._events:
            sequence, data = self._events[0]
            if _HEADER + len(data or b"") > size - len(told):
                if not told and data is not None:
                    raise fail(errno.EINVAL)
                break
            flags = abi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS if data is None else 0
            told += struct.pack("<II", flags, sequence) + (data or b"")
            self._events.pop(0)
        self._show()
        return told

    def destroy(self) -> None:
        self._viommu.users -= 1
        del self._viommu.events[self._kind]


class HardwareQueue(IommufdObject):
    """A queue of the guest's that the IOMMU reads by itself. span: the addresses of its memory, which stay mapped."""

    def __init__(self, iommufd: IommufdContext, viommu: VirtualIommu, hardware: QueueHardware, span: Span) -> None:
        super().__init__()
        self._iommufd = iommufd
        self._viommu = viommu
        self._hardware = hardware
        self._span = span
        # The kernel pins the pages through an object of its own, which has a number too.
        self._access = IommufdObject()

    def start(self, index: int) -> None:
        """Called once. Raises OSError as the driver does."""
        self._hardware.start(self, index)
        self._iommufd.add(self)
        self._iommufd.add(self._access)
        self._access.users += 1
        self._viommu.users += 1
        self._viommu.ioas.locked.append(self._span)

    def destroy(self) -> None:
        self._hardware.stop()
        self._viommu.ioas.locked.remove(self._span)
        self._viommu.users -= 1
        self._iommufd.remove(self._access)
