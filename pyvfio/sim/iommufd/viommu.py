"""Virtual IOMMUs: their devices, events and hardware queues. Source: drivers/iommu/iommufd/viommu.c, eventq.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommu import Span
from pyvfio.sim.iommufd.command import command_in, refuse
from pyvfio.sim.iommufd.driver import Batch, QueueHardware, UserData, ViommuHardware
from pyvfio.sim.iommufd.event_queue import EventQueue
from pyvfio.sim.iommufd.hw_pagetable import PageTable
from pyvfio.sim.iommufd.io_pagetable import PAGE, READ, Area
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.device import BoundDevice
    from pyvfio.sim.iommufd.main import IommufdState

_LAST = (1 << 64) - 1
_DEEPEST = 1 << 19
_HEADER = 8


class VirtualIommu(IommufdObject):
    """A slice of an IOMMU for one guest, over a page table. devices and events: by virtual id, and by type."""

    def __init__(self, iommufd: IommufdState, parent: PageTable, hardware: ViommuHardware) -> None:
        super().__init__()
        self._iommufd = iommufd
        self.driver = parent.driver
        self.ioas = parent.ioas
        self.hardware = hardware
        self.devices: dict[int, VirtualDevice] = {}
        self.events: dict[int, VirtualEvents] = {}
        self._parent = parent
        parent.users += 1

    def invalidate(self, batch: Batch) -> None:
        self.hardware.invalidate(self.devices, batch)

    def release(self) -> None:
        self._iommufd.pages.remove(self)
        self._parent.users -= 1


class VirtualDevice(IommufdObject):
    """What a guest's IOMMU calls a device by."""

    def __init__(self, viommu: VirtualIommu, device: BoundDevice, virtual_id: int) -> None:
        super().__init__()
        self.viommu = viommu
        self.device = device
        self.virtual_id = virtual_id
        viommu.users += 1
        viommu.devices[virtual_id] = self
        device.virtual = self

    def release(self) -> None:
        self.viommu.users -= 1
        del self.viommu.devices[self.virtual_id]
        self.device.virtual = None


class VirtualEvents(EventQueue):
    """Events of one type, at most depth of them; after more a header alone tells that some were lost."""

    def __init__(self, iommufd: IommufdState, viommu: VirtualIommu, kind: int, depth: int) -> None:
        super().__init__(iommufd)
        self._viommu = viommu
        self._kind = kind
        self._depth = depth
        self._next = 0
        # Sequence number and data of each; None: lost, which stands last.
        self._events: list[tuple[int, bytes | None]] = []
        viommu.users += 1
        viommu.events[kind] = self

    @property
    def is_empty(self) -> bool:
        return not self._events

    def report(self, data: bytes) -> None:
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

    def release(self) -> None:
        self._viommu.users -= 1
        del self._viommu.events[self._kind]


class HardwareQueue(IommufdObject):
    """A queue of the guest's that the IOMMU reads by itself: its memory, the span, stays mapped as long."""

    def __init__(self, iommufd: IommufdState, viommu: VirtualIommu, hardware: QueueHardware, span: Span) -> None:
        super().__init__()
        self._iommufd = iommufd
        self._viommu = viommu
        self._hardware = hardware
        self._span = span
        # The kernel pins the pages through an object of its own, which has a number too.
        self._access = IommufdObject()

    def start(self, index: int) -> None:
        """Once. Raises OSError as the driver does."""
        self._hardware.start(self, index)
        self._iommufd.add(self)
        self._iommufd.add(self._access)
        self._access.users += 1
        self._viommu.users += 1
        self._viommu.ioas.locked.append(self._span)

    def release(self) -> None:
        self._hardware.stop()
        self._viommu.ioas.locked.remove(self._span)
        self._viommu.users -= 1
        self._iommufd.remove(self._access)


class ViommuCommands:
    """Of one iommufd."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        version = iommufd.kernel.version
        self.commands: dict[int, Callable[[UserMemory], int]] = {}
        if version >= (6, 13):
            self.commands |= {abi.IOMMU_VIOMMU_ALLOC: self._viommu_alloc, abi.IOMMU_VDEVICE_ALLOC: self._vdevice_alloc}
        if version >= (6, 15):
            self.commands[abi.IOMMU_VEVENTQ_ALLOC] = self._veventq_alloc
        if version >= (6, 17):
            self.commands[abi.IOMMU_HW_QUEUE_ALLOC] = self._hw_queue_alloc

    def _viommu_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_viommu_alloc, 24)
        refuse(command.flags | (command.type == abi.IOMMU_VIOMMU_TYPE_DEFAULT))
        hardware = self._iommufd.device(command.dev_id).driver.virtual(command.type)
        if hardware is None:
            raise fail(errno.EOPNOTSUPP)
        parent = self._iommufd.get(command.hwpt_id, PageTable)
        if not parent.is_nest_parent:
            raise fail(errno.EINVAL)
        data = UserData(command.type, command.data_uptr, command.data_len)
        viommu = VirtualIommu(self._iommufd, parent, hardware)
        try:
            hardware.start(viommu, self._iommufd.pages, data if data.size else None)
        except OSError:
            viommu.release()
            raise
        user.write(struct.pack("<I", self._iommufd.add(viommu)), 20)
        return 0

    def _vdevice_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_vdevice_alloc, 24)
        viommu = self._iommufd.get(command.viommu_id, VirtualIommu)
        device = self._iommufd.device(command.dev_id)
        if device.driver.owner is not viommu.driver.owner:
            raise fail(errno.EINVAL)
        if device.virtual is not None or command.virt_id in viommu.devices:
            raise fail(errno.EEXIST)
        number = self._iommufd.add(VirtualDevice(viommu, device, command.virt_id))
        user.write(struct.pack("<I", number), 12)
        return 0

    def _veventq_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_veventq_alloc, 28)
        refuse(command.flags | getattr(command, "__reserved") | (command.type == abi.IOMMU_VEVENTQ_TYPE_DEFAULT))
        if not 0 < command.veventq_depth <= _DEEPEST:
            raise fail(errno.EINVAL)
        viommu = self._iommufd.get(command.viommu_id, VirtualIommu)
        if command.type in viommu.events:
            raise fail(errno.EEXIST)
        queue = VirtualEvents(self._iommufd, viommu, command.type, command.veventq_depth)
        number = self._iommufd.add(queue)
        user.write(struct.pack("<II", number, queue.open(user.process)), 20)
        return 0

    def _hw_queue_alloc(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_hw_queue_alloc, 40)
        refuse(command.flags | (command.type == abi.IOMMU_HW_QUEUE_TYPE_DEFAULT))
        if not command.length:
            raise fail(errno.EINVAL)
        iova, last = command.nesting_parent_iova, command.nesting_parent_iova + command.length - 1
        if last > _LAST:
            raise fail(errno.EOVERFLOW)
        viommu = self._iommufd.get(command.viommu_id, VirtualIommu)
        hardware = viommu.hardware.queue(command.type)
        if hardware is None:
            raise fail(errno.EOPNOTSUPP)
        first, last = iova // PAGE * PAGE, last // PAGE * PAGE + PAGE - 1
        parts = viommu.ioas.translate(first, last + 1 - first, READ)
        if parts is None:
            raise fail(errno.ENOENT)
        if not _are_contiguous(parts):
            raise fail(errno.EFAULT)
        queue = HardwareQueue(self._iommufd, viommu, hardware, (first, last))
        queue.start(command.index)
        user.write(struct.pack("<I", queue.id), 20)
        return 0


def _are_contiguous(parts: list[tuple[Area, int, int]]) -> bool:
    """In physical memory, where pages lie as they do in the program's or in their file."""
    places = [(area.pages.source.file, area.pages.source.start + offset, length) for area, offset, length in parts]
    return all(
        file == other_file and place + length == other
        for (file, place, length), (other_file, other, _) in pairwise(places)
    )
