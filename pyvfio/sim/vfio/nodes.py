"""/dev/vfio: what opening a node gives."""

from __future__ import annotations

import errno
import re

from pyvfio.sim.iommufd import IommufdFile
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, Process, fail
from pyvfio.sim.vfio.cdev import CdevState
from pyvfio.sim.vfio.container import ContainerState
from pyvfio.sim.vfio.group import GroupState
from pyvfio.sim.vfio.ownership import Ownership


class VfioNodes:
    """The nodes of one machine. iommufd_container: iommufd provides /dev/vfio/vfio (CONFIG_IOMMUFD_VFIO_CONTAINER)."""

    def __init__(self, machine: Machine, *, iommufd_container: bool) -> None:
        self.ownership = Ownership(machine)
        machine.sysfs.release_device = self.ownership.release_device
        self._machine = machine
        self._iommufd_container = iommufd_container

    def open(self, path: str, process: Process) -> File | None:
        """None for a path that is no such node's. Raises OSError as the kernel does."""
        if path == "/dev/vfio/vfio":
            if self._iommufd_container:
                return IommufdFile(self._machine, per_process=True)
            return ContainerState(self._machine)
        if match := re.fullmatch(r"/dev/vfio/devices/([\w-]+)", path):
            return self._open_device(match[1], process)
        if match := re.fullmatch(r"/dev/vfio/((?:noiommu-)?(\d+))", path):
            return self._open_group(match[1], int(match[2]), process)
        return None

    def _open_group(self, node: str, number: int, process: Process) -> GroupState:
        """Raises OSError(ENOENT) without such a node."""
        sysfs = self._machine.sysfs
        if not sysfs.has_node(number) or node != sysfs.node(number):
            raise fail(errno.ENOENT)
        if sysfs.is_noiommu(number):
            process.require_raw_io()
        return GroupState(self._machine, self.ownership, number)

    def _open_device(self, name: str, process: Process) -> CdevState:
        """Any number of files of one node may be open, of which one is bound. Raises OSError(ENOENT)."""
        nodes = self._machine.sysfs.nodes()
        if name not in nodes:
            raise fail(errno.ENOENT)
        if self._machine.lacks_iommu(nodes[name]):
            process.require_raw_io()
        return CdevState(self._machine, self.ownership, nodes[name])
