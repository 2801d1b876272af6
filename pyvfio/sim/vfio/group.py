"""A group in use. Source: drivers/vfio/group.c; before Linux 6.2 drivers/vfio/vfio_main.c."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.iommu import Span
from pyvfio.sim.process.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.vfio.container import ContainerState


class GroupState:
    """A group in use: its own descriptor, if open, and every open device hold it."""

    def __init__(self, kernel: SimKernel, number: int) -> None:
        self._kernel = kernel
        self.number = number
        self.container: ContainerState | IommufdState | None = None
        self.references = 0
        self.open_devices = 0

    @property
    def is_mediated(self) -> bool:
        """Whether its devices have no IOMMU, and their driver pins memory only when it needs it."""
        return all(member.is_mediated for member in self._kernel.sysfs.members(self.number))

    @property
    def is_noiommu(self) -> bool:
        """Whether its devices have no IOMMU, and reach physical addresses."""
        return self._kernel.sysfs.is_noiommu(self.number)

    @property
    def reserved(self) -> tuple[Span, ...]:
        """Device addresses its members do not let be mapped."""
        return tuple(span for member in self._kernel.sysfs.members(self.number) for span in member.reserved)

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_GROUP_GET_STATUS:
                return self._get_status(user)
            case vfio.VFIO_GROUP_SET_CONTAINER:
                return self._set_container(user)
            case vfio.VFIO_GROUP_UNSET_CONTAINER:
                return self._unset_container()
            case vfio.VFIO_GROUP_GET_DEVICE_FD:
                return self._open_device(user)
            case _:
                raise fail(errno.ENOTTY)

    def drop(self) -> None:
        """One of what holds the group is gone."""
        self.references -= 1
        if not self.references and self.container is not None:
            self.container.leave(self)
            self.container = None

    def _get_status(self, user: UserMemory) -> int:
        argsz = int.from_bytes(user.read(8)[:4], "little")
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
        container = user.process.container_of(fd)
        if self.container is not None:
            raise fail(errno.EINVAL)
        if container is None:
            raise fail(errno.EBADFD if self._kernel.version >= (6, 2) else errno.EINVAL)
        container.join(self, user.process)
        self.container = container
        return 0

    def _open_device(self, user: UserMemory) -> int:
        """A new descriptor of a member: by its address, and perhaps " vf_token=UUID" behind it."""
        device = self._kernel.ownership.open_in_group(self, user.string(), user.process)
        device.opened()
        self.references += 1
        self.open_devices += 1
        return user.process.install(device)

    def _unset_container(self) -> int:
        if self.container is None:
            raise fail(errno.EINVAL)
        if self.open_devices and not self.container.keeps_devices:
            raise fail(errno.EBUSY)
        self.container.leave(self)
        self.container = None
        return 0
