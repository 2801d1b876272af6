"""An open /dev/iommu: which command does what. Source: drivers/iommu/iommufd/main.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import Command, refuse
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.eventq import FaultCommands
from pyvfio.sim.iommufd.hw_pagetable import PageTableCommands
from pyvfio.sim.iommufd.io_pagetable import IoasState
from pyvfio.sim.iommufd.ioas import IoasCommands
from pyvfio.sim.iommufd.mock_device import MockCommands
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.shared_pages import Pages
from pyvfio.sim.iommufd.vfio_compat import VfioCompatibility
from pyvfio.sim.iommufd.viommu_alloc import ViommuCommands
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, UserMemory, VmArea, fail


class IommufdFile(File):
    """per_process: pages are charged to the process, as through a container; otherwise to its user."""

    def __init__(self, machine: Machine, *, per_process: bool) -> None:
        self.context = IommufdContext(machine, per_process=per_process)
        self._vfio = VfioCompatibility(self.context)
        commands = {
            **GeneralCommands(self.context).commands,
            **IoasCommands(self.context).commands,
            **PageTableCommands(self.context).commands,
            **FaultCommands(self.context).commands,
            **ViommuCommands(self.context).commands,
            **MockCommands(self.context).commands,
            **self._vfio.commands,
        }
        self._commands = {request: each for request, each in commands.items() if machine.version >= each.since}

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request < abi.IOMMU_DESTROY:
            return self._vfio.ioctl(request, user)
        if request not in self._commands:
            raise fail(errno.ENOTTY)
        return self._commands[request].run(user)

    def mmap(self, length: int, protection: int, flags: int, offset: int) -> VmArea:
        """Pages of the iommufd, which hold it as long as they are mapped."""
        if self.context.machine.version < (6, 17):
            raise fail(errno.ENODEV)
        pages = self.context.pages.mapped(length, protection, flags, offset)
        pages.owner.users += 1
        self.context.holders += 1
        return VmArea(length, pages=pages.fd, close=partial(self._unmapped, pages))

    def release(self) -> None:
        self.context.drop()

    def _unmapped(self, pages: Pages) -> None:
        pages.owner.users -= 1
        self.context.drop()


class GeneralCommands:
    """The commands of an iommufd that concern any object, or the iommufd itself."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_DESTROY: Command(abi.iommu_destroy, 8, self._destroy),
            abi.IOMMU_OPTION: Command(abi.iommu_option, 24, self._option),
        }

    def _destroy(self, _user: UserMemory, command: abi.iommu_destroy) -> None:
        thing = self._iommufd.get(command.id, IommufdObject)
        if thing.users:
            raise fail(errno.EBUSY)
        self._iommufd.remove(thing)

    def _option(self, user: UserMemory, command: abi.iommu_option) -> None:
        is_set = command.op == abi.IOMMU_OPTION_OP_SET
        match command.option_id:
            case abi.IOMMU_OPTION_RLIMIT_MODE:
                refuse(command.object_id)
                value = self._rlimit_mode(command.val64 if is_set else None)
            case abi.IOMMU_OPTION_HUGE_PAGES:
                value = _huge_pages(self._iommufd.get(command.object_id, IoasState), command.val64 if is_set else None)
            case _:
                raise fail(errno.EOPNOTSUPP)
        refuse(command.op not in (abi.IOMMU_OPTION_OP_SET, abi.IOMMU_OPTION_OP_GET))
        user.write(struct.pack("<Q", value), 16)

    def _rlimit_mode(self, wanted: int | None) -> int:
        if wanted is not None:
            if not self._iommufd.is_empty:
                raise fail(errno.EBUSY)
            if wanted > 1:
                raise fail(errno.EINVAL)
            self._iommufd.per_process = bool(wanted)
        return int(self._iommufd.per_process)


def _huge_pages(ioas: IoasState, wanted: int | None) -> int:
    if wanted is not None:
        if wanted > 1 or (not wanted and ioas.large_pages and ioas.domains and ioas.areas):
            raise fail(errno.EINVAL)
        ioas.large_pages = bool(wanted)
    return int(ioas.large_pages)
