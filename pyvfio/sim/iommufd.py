"""An open /dev/iommu, its objects and the devices bound to it. Source: drivers/iommu/iommufd/main.c and device.c."""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.command import command_in, refuse
from pyvfio.sim.ioas import WRITE, Area, IoasState, PageSet, Source
from pyvfio.sim.ioas_commands import IoasCommands
from pyvfio.sim.iommufd_vfio import VfioCompatibility
from pyvfio.sim.page_table import BoundDevice, PageTableCommands, PageTableState
from pyvfio.sim.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.device import DeviceState, Translate
    from pyvfio.sim.group import GroupState
    from pyvfio.sim.kernel import SimKernel

_LAST = (1 << 64) - 1
_MAP_FLAGS = abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_WRITEABLE | abi.IOMMU_IOAS_MAP_READABLE


IommufdObject = IoasState | PageTableState | BoundDevice


class IommufdState:
    """Lives as long as its descriptor, a group or a device holds it. per_process: whose limit pages are charged to."""

    def __init__(self, kernel: SimKernel, *, per_process: bool) -> None:
        self.kernel = kernel
        self.per_process = per_process
        self.holders = 1
        self.compatible: IoasState | None = None
        self._objects: dict[int, IommufdObject] = {}
        self._bound: dict[DeviceState, BoundDevice] = {}
        self._vfio = VfioCompatibility(self)
        self._commands: dict[int, Callable[[UserMemory], int]] = {
            abi.IOMMU_DESTROY: self._destroy,
            abi.IOMMU_OPTION: self._option,
            abi.IOMMU_VFIO_IOAS: self._vfio_ioas,
            **IoasCommands(self).commands,
            **PageTableCommands(self).commands,
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
        if not self.holders:
            for thing in self._objects.values():
                if isinstance(thing, IoasState):
                    thing.release()
            self._objects.clear()

    # For groups, which take an iommufd where they would a container.

    def join(self, _group: GroupState) -> None:
        if self.compatible is None:
            self.compatible = IoasState(self.kernel)
            self.add(self.compatible)
        self.holders += 1

    def leave(self, _group: GroupState) -> None:
        self.drop()

    def admit(self, device: DeviceState) -> Translate:
        """The first descriptor of a device is opened through its group: where its DMA goes."""
        bound = self.bind(device)
        try:
            if self.compatible is None:
                raise fail(errno.ENODEV)
            self._attach(bound, self.compatible)
        except OSError:
            self.unbind(device)
            raise
        return bound.translate

    def dismiss(self, device: DeviceState) -> None:
        """The last one is closed."""
        self.unbind(device)

    # Devices.

    def bind(self, device: DeviceState) -> BoundDevice:
        """Raises OSError(EPERM) if something else has a member of the device's group, or it could forge interrupts."""
        if not self.kernel.remaps_interrupts and not self.kernel.sysfs.iommufd_allows_unsafe_interrupts:
            raise fail(errno.EPERM)
        self.kernel.ownership.claim(device.address, self)
        bound = BoundDevice(self._free_id(), device.address)
        self.add(bound)
        self._bound[device] = bound
        self.holders += 1
        return bound

    def unbind(self, device: DeviceState) -> None:
        bound = self._bound.pop(device)
        self._detach(bound)
        del self._objects[bound.id]
        self.kernel.ownership.disclaim(device.address)
        self.drop()

    def attach(self, device: DeviceState, target: int) -> int:
        """Attach, or attach elsewhere: the id of the page table it uses then."""
        table = self._attach(self._bound[device], self._objects.get(target))
        return table.id

    def detach(self, device: DeviceState) -> None:
        self._detach(self._bound[device])

    def _attach(self, bound: BoundDevice, target: IommufdObject | None) -> PageTableState:
        match target:
            case None:
                raise fail(errno.ENOENT)
            case IoasState():
                table = self._automatic(target)
            case PageTableState():
                table = target
            case _:
                raise fail(errno.EINVAL)
        if table is not bound.table:
            table.users += 1
            self._detach(bound)
            bound.table = table
        return table

    def _detach(self, bound: BoundDevice) -> None:
        table, bound.table = bound.table, None
        if table is not None:
            table.users -= 1
            if table.automatic and not table.users:
                self._remove_table(table)

    def _automatic(self, ioas: IoasState) -> PageTableState:
        for thing in self._objects.values():
            if isinstance(thing, PageTableState) and thing.ioas is ioas and thing.automatic:
                return thing
        return self.add_table(ioas, automatic=True)

    def add_table(self, ioas: IoasState, *, automatic: bool, tracks_dirty: bool = False) -> PageTableState:
        ioas.add_domain()
        ioas.users += 1
        table = PageTableState(self._free_id(), ioas, automatic, tracks_dirty)
        self.add(table)
        return table

    def _remove_table(self, table: PageTableState) -> None:
        table.ioas.remove_domain()
        table.ioas.users -= 1
        del self._objects[table.id]

    # Commands.

    def _destroy(self, user: UserMemory) -> int:
        thing = self._objects.get(command_in(user, abi.iommu_destroy, 8).id)
        if thing is None:
            raise fail(errno.ENOENT)
        if thing.users:
            raise fail(errno.EBUSY)
        if isinstance(thing, PageTableState):
            self._remove_table(thing)
        elif isinstance(thing, IoasState):
            thing.release()
            self._objects = {key: other for key, other in self._objects.items() if other is not thing}
            if self.compatible is thing:
                self.compatible = None
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
        spaces = [thing for thing in self._objects.values() if isinstance(thing, IoasState)]
        if any(area.pages.source.file is None for ioas in spaces for area in ioas.areas):
            raise fail(errno.EINVAL)
        return 0

    def add(self, thing: IommufdObject) -> int:
        number = self._free_id()
        self._objects[number] = thing
        return number

    def _free_id(self) -> int:
        return next(number for number in itertools.count(1) if number not in self._objects)

    def ioas(self, number: int) -> IoasState:
        thing = self._objects.get(number)
        if not isinstance(thing, IoasState):
            raise fail(errno.ENOENT)
        return thing

    def find(self, number: int) -> IommufdObject | None:
        return self._objects.get(number)

    def table(self, number: int) -> PageTableState:
        thing = self._objects.get(number)
        if not isinstance(thing, PageTableState):
            raise fail(errno.ENOENT)
        return thing


def _huge_pages(ioas: IoasState, wanted: int | None) -> int:
    if wanted is not None:
        if wanted > 1 or (not wanted and ioas.large_pages and ioas.domains and ioas.areas):
            raise fail(errno.EINVAL)
        ioas.large_pages = bool(wanted)
    return int(ioas.large_pages)
