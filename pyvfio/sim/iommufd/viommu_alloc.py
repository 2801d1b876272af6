"""The commands of iommufd that make virtual IOMMUs and what belongs to them. Source: drivers/iommu/iommufd/viommu.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import Command, refuse
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.device import BoundDevice, VirtualDevice
from pyvfio.sim.iommufd.driver import UserData
from pyvfio.sim.iommufd.io_pagetable import READ, Area
from pyvfio.sim.iommufd.page_tables import PageTable
from pyvfio.sim.iommufd.viommu import HardwareQueue, VirtualEvents, VirtualIommu
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import UserMemory, fail

_LAST = (1 << 64) - 1
_DEEPEST = 1 << 19


class ViommuCommands:
    """The commands of an iommufd."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_VIOMMU_ALLOC: Command(
                abi.iommu_viommu_alloc, 24, self._viommu_alloc, since=(6, 13), ignores_reserved=True
            ),
            abi.IOMMU_VDEVICE_ALLOC: Command(abi.iommu_vdevice_alloc, 24, self._vdevice_alloc, since=(6, 13)),
            abi.IOMMU_VEVENTQ_ALLOC: Command(abi.iommu_veventq_alloc, 28, self._veventq_alloc, since=(6, 15)),
            abi.IOMMU_HW_QUEUE_ALLOC: Command(abi.iommu_hw_queue_alloc, 40, self._hw_queue_alloc, since=(6, 17)),
        }

    def _viommu_alloc(self, user: UserMemory, command: abi.iommu_viommu_alloc) -> None:
        refuse(command.flags | (command.type == abi.IOMMU_VIOMMU_TYPE_DEFAULT))
        hardware = self._iommufd.get(command.dev_id, BoundDevice).driver.virtual(command.type)
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
            viommu.destroy()
            raise
        user.write(struct.pack("<I", self._iommufd.add(viommu)), 20)

    def _vdevice_alloc(self, user: UserMemory, command: abi.iommu_vdevice_alloc) -> None:
        viommu = self._iommufd.get(command.viommu_id, VirtualIommu)
        device = self._iommufd.get(command.dev_id, BoundDevice)
        if device.driver.owner is not viommu.driver.owner:
            raise fail(errno.EINVAL)
        if device.virtual is not None or command.virt_id in viommu.devices:
            raise fail(errno.EEXIST)
        number = self._iommufd.add(VirtualDevice(viommu, device, command.virt_id))
        user.write(struct.pack("<I", number), 12)

    def _veventq_alloc(self, user: UserMemory, command: abi.iommu_veventq_alloc) -> None:
        refuse(command.flags | (command.type == abi.IOMMU_VEVENTQ_TYPE_DEFAULT))
        if not 0 < command.veventq_depth <= _DEEPEST:
            raise fail(errno.EINVAL)
        viommu = self._iommufd.get(command.viommu_id, VirtualIommu)
        if command.type in viommu.events:
            raise fail(errno.EEXIST)
        queue = VirtualEvents(self._iommufd, viommu, command.type, command.veventq_depth)
        number = self._iommufd.add(queue)
        user.write(struct.pack("<II", number, queue.open(user.process)), 20)

    def _hw_queue_alloc(self, user: UserMemory, command: abi.iommu_hw_queue_alloc) -> None:
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


def _are_contiguous(parts: list[tuple[Area, int, int]]) -> bool:
    """Whether the parts lie one behind the other in physical memory, as pages do in the program's or in their file."""
    places = [(area.pages.source.file, area.pages.source.start + offset, length) for area, offset, length in parts]
    return all(
        file == other_file and place + length == other
        for (file, place, length), (other_file, other, _) in pairwise(places)
    )
