"""A container. Source: drivers/vfio/container.c."""

from __future__ import annotations

import errno

from pyvfio.abi import vfio
from pyvfio.sim.machine import IommuGroup, Machine
from pyvfio.sim.process import File, Process, UserMemory, fail
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.mappings import DmaMapping, Translate
from pyvfio.sim.vfio.noiommu import NoIommu
from pyvfio.sim.vfio.type1 import Type1

# What VFIO_SET_IOMMU takes, and which rules of type1 it means.
_TYPE1_VERSIONS = {vfio.VFIO_TYPE1_IOMMU: 1, vfio.VFIO_TYPE1v2_IOMMU: 2}


class ContainerState(File):
    """A container, as long as its descriptor is open or a group is in it. iommu: None until VFIO_SET_IOMMU."""

    keeps_devices = False
    """Whether a group may leave while devices of it are open."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.groups: list[IommuGroup] = []
        self.iommu: Type1 | NoIommu | None = None

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        return self.iommu.mappings if self.iommu else ()

    @property
    def is_noiommu(self) -> bool:
        """Whether its groups have no IOMMU."""
        return any(group.is_noiommu for group in self.groups)

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_GET_API_VERSION:
                return vfio.VFIO_API_VERSION
            case vfio.VFIO_CHECK_EXTENSION:
                return int(self._has_extension(user.value))
            case vfio.VFIO_SET_IOMMU:
                return self._set_iommu(user.value, user.process)
        if self.iommu is None:
            raise fail(errno.EINVAL)
        return self.iommu.ioctl(request, user)

    def join(self, group: IommuGroup, process: Process) -> None:
        """Put the group's devices behind this container, as process asks. An OSError leaves them where they are."""
        if group.is_noiommu:
            process.require_raw_io()
        # With an IOMMU or without: all of them alike.
        if self.groups and self.is_noiommu != group.is_noiommu:
            raise fail(errno.EPERM)
        if not group.is_viable:
            raise fail(errno.EPERM)
        if group.is_claimed_by_firmware:
            # Before, the IOMMU's driver found out when it was to make a domain for the group.
            if self._machine.version >= (6, 6):
                raise fail(errno.EINVAL)
            if self.iommu is not None:
                raise fail(errno.EPERM)
        if self.iommu is not None:
            self.iommu.attach(group, process)
        self.groups.append(group)

    def admit(self, _device: DeviceState, process: Process) -> Translate:
        """The first descriptor of a device is being opened: where its DMA goes. Raises OSError as the kernel does."""
        if self.iommu is None:
            raise fail(errno.EINVAL)
        if self.is_noiommu:
            process.require_raw_io()
        return self.iommu.translate

    def dismiss(self, _device: DeviceState) -> None:
        """The last descriptor of a device is closed."""

    def leave(self, group: IommuGroup) -> None:
        """Take the group's devices out. With the last group, the IOMMU and its mappings are gone."""
        self.groups.remove(group)
        if self.iommu is not None:
            self.iommu.detach(group)
        if not self.groups:
            self.iommu = None

    def _has_extension(self, extension: int) -> bool:
        """Whether there is an extension: of the IOMMU in use, or of any driver while none is in use."""
        if self.is_noiommu:
            return extension == vfio.VFIO_NOIOMMU_IOMMU
        offered = {*_TYPE1_VERSIONS, vfio.VFIO_UNMAP_ALL}
        if self._machine.sysfs.allows_noiommu and not self.groups:
            offered.add(vfio.VFIO_NOIOMMU_IOMMU)
        if self._machine.version < (6, 18):
            offered.add(vfio.VFIO_TYPE1_NESTING_IOMMU)
        return extension in offered or (self.iommu is not None and self.iommu.has_extension(extension))

    def _set_iommu(self, kind: int, process: Process) -> int:
        if not self.groups or self.iommu is not None:
            raise fail(errno.EINVAL)
        if not self._has_extension(kind):
            raise fail(errno.ENODEV)
        if kind == vfio.VFIO_NOIOMMU_IOMMU and self.is_noiommu:
            process.require_raw_io()
            self.iommu = NoIommu(self._machine.pages)
            return 0
        if kind not in _TYPE1_VERSIONS:
            # Known, but no kind of IOMMU; or nesting, which no IOMMU here can do.
            raise fail(errno.EINVAL)
        if any(group.is_claimed_by_firmware for group in self.groups):
            raise fail(errno.EPERM)
        iommu = Type1(self._machine, _TYPE1_VERSIONS[kind])
        for group in self.groups:
            iommu.attach(group, process)
        self.iommu = iommu
        return 0
