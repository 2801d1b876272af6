"""Containers and groups: who is attached to what. Source: drivers/vfio/container.c and group.c."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.type1 import DmaMapping, Type1
from pyvfio.sim.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel


class ContainerState:
    """Lives as long as its descriptor or a group attached to it."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel
        self.groups: list[GroupState] = []
        self.iommu: Type1 | None = None

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        return self.iommu.mappings if self.iommu else ()

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_GET_API_VERSION:
                return vfio.VFIO_API_VERSION
            case vfio.VFIO_CHECK_EXTENSION:
                return self._check_extension(user.value)
            case vfio.VFIO_SET_IOMMU:
                return self._set_iommu(user.value)
        if self.iommu is None:
            raise fail(errno.EINVAL)
        return self.iommu.ioctl(request, user)

    def leave(self, group: GroupState) -> None:
        self.groups.remove(group)
        if not self.groups and self.iommu is not None:
            self.iommu.release()
            self.iommu = None

    def _check_extension(self, extension: int) -> int:
        offered = {vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_UNMAP_ALL}
        if self._kernel.version < (6, 18):
            offered.add(vfio.VFIO_TYPE1_NESTING_IOMMU)
        if self._kernel.iommu == "amd" and self.iommu is not None:
            offered.add(vfio.VFIO_DMA_CC_IOMMU)
        return int(extension in offered)

    def _set_iommu(self, kind: int) -> int:
        if not self.groups or self.iommu is not None:
            raise fail(errno.EINVAL)
        versions = {vfio.VFIO_TYPE1_IOMMU: 1, vfio.VFIO_TYPE1v2_IOMMU: 2}
        if kind not in versions:
            nesting = kind == vfio.VFIO_TYPE1_NESTING_IOMMU and self._kernel.version < (6, 18)
            raise fail(errno.EINVAL if nesting else errno.ENODEV)
        self.iommu = Type1(self._kernel, versions[kind])
        return 0


class GroupState:
    """A group in use: its own descriptor, if open, and every open device hold it."""

    def __init__(self, kernel: SimKernel, number: int) -> None:
        self._kernel = kernel
        self.number = number
        self.container: ContainerState | None = None
        self.references = 0
        self.open_devices = 0

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_GROUP_GET_STATUS:
                return self._get_status(user)
            case vfio.VFIO_GROUP_SET_CONTAINER:
                return self._set_container(user)
            case vfio.VFIO_GROUP_UNSET_CONTAINER:
                return self._unset_container()
            case vfio.VFIO_GROUP_GET_DEVICE_FD:
                return self._kernel.open_device(self, user.string())
            case _:
                raise fail(errno.ENOTTY)

    def drop(self) -> None:
        """One of what holds the group is gone."""
        self.references -= 1
        if not self.references and self.container is not None:
            self.container.leave(self)
            self.container = None

    def _get_status(self, user: UserMemory) -> int:
        argsz = user.u32(0)
        user.read(8)
        if argsz < 8:
            raise fail(errno.EINVAL)
        flags = 0
        if self.container is not None:
            flags = vfio.VFIO_GROUP_FLAGS_CONTAINER_SET | vfio.VFIO_GROUP_FLAGS_VIABLE
        elif self._kernel.sysfs.viable(self.number):
            flags = vfio.VFIO_GROUP_FLAGS_VIABLE
        user.write(struct.pack("<II", argsz, flags))
        return 0

    def _set_container(self, user: UserMemory) -> int:
        (fd,) = struct.unpack("<i", user.read(4))
        container = self._kernel.container_of(fd)
        if self.container is not None:
            raise fail(errno.EINVAL)
        if container is None:
            raise fail(errno.EBADFD if self._kernel.version >= (6, 2) else errno.EINVAL)
        if not self._kernel.sysfs.viable(self.number):
            raise fail(errno.EPERM)
        self.container = container
        container.groups.append(self)
        return 0

    def _unset_container(self) -> int:
        if self.container is None:
            raise fail(errno.EINVAL)
        if self.open_devices:
            raise fail(errno.EBUSY)
        self.container.leave(self)
        self.container = None
        return 0
