"""An open /dev/iommu, its objects and the devices bound to it. Source: drivers/iommu/iommufd/main.c and device.c."""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import command_in, refuse
from pyvfio.sim.iommufd.device import BoundDevice
from pyvfio.sim.iommufd.driver import IommuDriver, MachineIommu, NoIommuDriver
from pyvfio.sim.iommufd.fault_queue import FaultCommands
from pyvfio.sim.iommufd.hw_pagetable import PageTableCommands
from pyvfio.sim.iommufd.io_pagetable import WRITE, Area, IoasState, PageSet, Source, change_process
from pyvfio.sim.iommufd.ioas import IoasCommands
from pyvfio.sim.iommufd.mock_device import MockCommands
from pyvfio.sim.iommufd.nested import NestingCommands
from pyvfio.sim.iommufd.object import IommufdObject, Tombstone
from pyvfio.sim.iommufd.shared_pages import Pages, SharedPages
from pyvfio.sim.iommufd.vfio_compat import VfioCompatibility
from pyvfio.sim.iommufd.viommu import ViommuCommands
from pyvfio.sim.process.user import UserMemory, fail
from pyvfio.sim.vfio.noiommu import reach_physical

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.process.process import Process
    from pyvfio.sim.vfio.device import DeviceState, Translate
    from pyvfio.sim.vfio.group import GroupState

_LAST = (1 << 64) - 1
_MAP_FLAGS = abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE


T = TypeVar("T", bound=IommufdObject)


class IommufdState:
    """Lives as long as its descriptor, a group or a device holds it. per_process: whose limit pages are charged to."""

    keeps_devices = True
    """Whether a group may leave while devices of it are open."""

    def __init__(self, kernel: SimKernel, *, per_process: bool) -> None:
        self.kernel = kernel
        self.per_process = per_process
        self.holders = 1
        self.compatible: IoasState | None = None
        self.is_noiommu = False
        """Whether a group without an IOMMU has been attached: none with one may be any more."""
        self._objects: dict[int, IommufdObject] = {}
        self._bound: dict[DeviceState, BoundDevice] = {}
        self.pages = SharedPages()
        self._vfio = VfioCompatibility(self)
        self._commands: dict[int, Callable[[UserMemory], int]] = {
            abi.IOMMU_DESTROY: self._destroy,
            abi.IOMMU_OPTION: self._option,
            abi.IOMMU_VFIO_IOAS: self._vfio_ioas,
            **IoasCommands(self).commands,
            **PageTableCommands(self).commands,
            **NestingCommands(self).commands,
            **FaultCommands(self).commands,
            **ViommuCommands(self).commands,
            **MockCommands(self).commands,
        }
        if kernel.version >= (6, 14):
            self._commands[abi.IOMMU_IOAS_CHANGE_PROCESS] = self._change_process

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request < abi.IOMMU_DESTROY:
            return self._vfio.ioctl(request, user)
        if request not in self._commands:
            raise fail(errno.ENOTTY)
        return self._commands[request](user)

    def drop(self) -> None:
        """One of what holds the iommufd is gone."""
        self.holders -= 1
        while not self.holders and self._objects:
            self.remove(next(thing for thing in self._objects.values() if not thing.users))

    def map(self, length: int, protection: int, flags: int, offset: int) -> Pages:
        """Pages that the program is about to map: they hold the iommufd until unmap(). Raises OSError."""
        if self.kernel.version < (6, 17):
            raise fail(errno.ENODEV)
        pages = self.pages.mapped(length, protection, flags, offset)
        pages.owner.users += 1
        self.holders += 1
        return pages

    def unmap(self, pages: Pages) -> None:
        pages.owner.users -= 1
        self.drop()

    # For groups, which take an iommufd where they would a container.

    def join(self, group: GroupState, _process: Process) -> None:
        if group.is_noiommu:
            if self.compatible is not None:
                raise fail(errno.EINVAL)
            self.is_noiommu = True
        elif self.is_noiommu:
            raise fail(errno.EINVAL)
        elif self.compatible is None:
            self.compatible = IoasState()
            self.add(self.compatible)
        self.holders += 1

    def leave(self, _group: GroupState) -> None:
        self.drop()

    def admit(self, device: DeviceState, process: Process) -> Translate:
        """The first descriptor of a device is opened through its group: where its DMA goes."""
        if self._lacks_iommu(device):
            process.require_raw_io()
            if self.compatible is not None:
                raise fail(errno.EPERM)
            return partial(reach_physical, self.kernel)
        bound = self.bind(device)
        try:
            if self.compatible is None:
                raise fail(errno.ENODEV)
            bound.attach(self.compatible.id)
        except OSError:
            self.unbind(device)
            raise
        return bound.translate

    def dismiss(self, device: DeviceState) -> None:
        """The last one is closed."""
        if device in self._bound:
            self.unbind(device)

    # Devices.

    def bind(self, device: DeviceState) -> BoundDevice:
        """Raises OSError(EPERM) if something else has a member of the device's group, or it could forge interrupts.

        A device without an IOMMU has no group to speak of, and may do what it likes.
        """
        driver: IommuDriver = NoIommuDriver()
        if not self._lacks_iommu(device):
            if not self.kernel.remaps_interrupts and not self.kernel.sysfs.iommufd_allows_unsafe_interrupts:
                raise fail(errno.EPERM)
            self.kernel.ownership.claim(device.address, self)
            driver = MachineIommu(self.kernel)
        bound = BoundDevice(self, driver)
        self.add(bound)
        self._bound[device] = bound
        self.holders += 1
        return bound

    def _lacks_iommu(self, device: DeviceState) -> bool:
        return self.kernel.sysfs.lacks_iommu(self.kernel.functions[device.address])

    def unbind(self, device: DeviceState) -> None:
        self.unbind_device(self._bound.pop(device))
        if not self._lacks_iommu(device):
            self.kernel.ownership.disclaim(device.address)
        self.drop()

    def unbind_device(self, bound: BoundDevice) -> None:
        """It is gone, and with it what a virtual IOMMU called it by, whose number is not used again."""
        bound.detach_all()
        if bound.virtual is not None:
            tombstone = Tombstone()
            tombstone.id = bound.virtual.id
            self.remove(bound.virtual)
            self._objects[tombstone.id] = tombstone
        self.remove(bound)

    def bound(self, device: DeviceState) -> BoundDevice:
        return self._bound[device]

    # Commands.

    def _destroy(self, user: UserMemory) -> int:
        thing = self.get(command_in(user, abi.iommu_destroy, 8).id, IommufdObject)
        if thing.users:
            raise fail(errno.EBUSY)
        self.remove(thing)
        return 0

    def map_into(self, ioas: IoasState, iova: int | None, source: Source, access: int) -> int:
        """iopt_map_user_pages; iova None: where there is room."""
        if source.start + source.size > _LAST:
            raise fail(errno.EOVERFLOW)
        if not source.size or source.size % ioas.alignment:
            raise fail(errno.EINVAL)
        pages = PageSet(self.kernel, source, writable=bool(access & WRITE), per_process=self.per_process)
        if iova is None:
            iova = ioas.find_room(source.start, source.size)
        ioas.insert([Area(iova, source.size, pages, 0, access)])
        return iova

    def _option(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_option, 24)
        refuse(getattr(command, "__reserved"))
        is_set = command.op == abi.IOMMU_OPTION_OP_SET
        match command.option_id:
            case abi.IOMMU_OPTION_RLIMIT_MODE:
                refuse(command.object_id)
                value = self._rlimit_mode(command.val64 if is_set else None)
            case abi.IOMMU_OPTION_HUGE_PAGES:
                value = _huge_pages(self.ioas(command.object_id), command.val64 if is_set else None)
            case _:
                raise fail(errno.EOPNOTSUPP)
        refuse(command.op not in (abi.IOMMU_OPTION_OP_SET, abi.IOMMU_OPTION_OP_GET))
        user.write(struct.pack("<Q", value), 16)
        return 0

    def _rlimit_mode(self, wanted: int | None) -> int:
        if wanted is not None:
            if self._objects:
                raise fail(errno.EBUSY)
            if wanted > 1:
                raise fail(errno.EINVAL)
            self.per_process = bool(wanted)
        return int(self.per_process)

    def _vfio_ioas(self, user: UserMemory) -> int:
        command = command_in(user, abi.iommu_vfio_ioas, 12)
        refuse(getattr(command, "__reserved"))
        match command.op:
            case abi.IOMMU_VFIO_IOAS_GET:
                if self.compatible is None:
                    raise fail(errno.ENODEV)
                found = next(key for key, thing in self._objects.items() if thing is self.compatible)
                user.write(struct.pack("<I", found), 4)
            case abi.IOMMU_VFIO_IOAS_SET:
                self.compatible = self.ioas(command.ioas_id)
            case abi.IOMMU_VFIO_IOAS_CLEAR:
                self.compatible = None
            case _:
                raise fail(errno.EOPNOTSUPP)
        return 0

    def _change_process(self, user: UserMemory) -> int:
        refuse(getattr(command_in(user, abi.iommu_ioas_change_process, 8), "__reserved"))
        pages = {area.pages for ioas in self.objects(IoasState) for area in ioas.areas}
        if any(each.source.file is None for each in pages):
            raise fail(errno.EINVAL)
        change_process(pages, user.process)
        return 0

    def add(self, thing: IommufdObject) -> int:
        """Give it the lowest number that is free."""
        thing.id = next(number for number in itertools.count(1) if number not in self._objects)
        self._objects[thing.id] = thing
        return thing.id

    def remove(self, thing: IommufdObject) -> None:
        """Nothing uses it any more: it is destroyed."""
        del self._objects[thing.id]
        if thing is self.compatible:
            self.compatible = None
        thing.release()

    def find(self, number: int) -> IommufdObject | None:
        thing = self._objects.get(number)
        return thing if thing is not None and thing.is_published else None

    def get(self, number: int, kind: type[T]) -> T:
        """Raises OSError(ENOENT) for none of its kind."""
        thing = self.find(number)
        if not isinstance(thing, kind):
            raise fail(errno.ENOENT)
        return thing

    def objects(self, kind: type[T]) -> list[T]:
        return [thing for thing in self._objects.values() if isinstance(thing, kind)]

    def ioas(self, number: int) -> IoasState:
        return self.get(number, IoasState)

    def device(self, number: int) -> BoundDevice:
        return self.get(number, BoundDevice)


def _huge_pages(ioas: IoasState, wanted: int | None) -> int:
    if wanted is not None:
        if wanted > 1 or (not wanted and ioas.large_pages and ioas.domains and ioas.areas):
            raise fail(errno.EINVAL)
        ioas.large_pages = bool(wanted)
    return int(ioas.large_pages)
