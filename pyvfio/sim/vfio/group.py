"""A group in use. Source: drivers/vfio/group.c; before Linux 6.2 drivers/vfio/vfio_main.c."""

from __future__ import annotations

import errno
import struct
import uuid

from pyvfio.abi import vfio
from pyvfio.sim.devices import VFIO_DRIVER
from pyvfio.sim.iommufd import IommufdFile
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, Process, UserMemory, fail
from pyvfio.sim.vfio.container import ContainerState
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.device_file import DeviceFile
from pyvfio.sim.vfio.iommufd import IommufdContainer
from pyvfio.sim.vfio.ownership import Ownership


class GroupState(File):
    """A group, as long as its own descriptor, or a device that was opened through it, is open.

    references: how many of them are; open_devices: how many of them are devices' descriptors.
    """

    def __init__(self, machine: Machine, ownership: Ownership, number: int) -> None:
        """The group's descriptor is being opened. Raises OSError(EBUSY) if it is, or a device of it is, open."""
        ownership.take_group(number, self)
        self.number = number
        self.container: ContainerState | IommufdContainer | None = None
        self.references = 1
        self.open_devices = 0
        self._machine = machine
        self._ownership = ownership
        self._iommu_group = machine.iommu_group(number)

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

    def release(self) -> None:
        self._drop()

    def device_closed(self) -> None:
        """A descriptor of a device that was opened through the group is closed."""
        self.open_devices -= 1
        self._drop()

    def _drop(self) -> None:
        """One of what holds the group is gone."""
        self.references -= 1
        if self.references:
            return
        self._ownership.give_group_back(self.number)
        if self.container is not None:
            self.container.leave(self._iommu_group)
            self.container = None

    def _get_status(self, user: UserMemory) -> int:
        argsz = int.from_bytes(user.read(8)[:4], "little")
        if argsz < 8:
            raise fail(errno.EINVAL)
        flags = 0
        if self.container is not None:
            flags = vfio.VFIO_GROUP_FLAGS_CONTAINER_SET | vfio.VFIO_GROUP_FLAGS_VIABLE
        elif self._iommu_group.is_viable:
            flags = vfio.VFIO_GROUP_FLAGS_VIABLE
        user.write(struct.pack("<II", argsz, flags))
        return 0

    def _set_container(self, user: UserMemory) -> int:
        (fd,) = struct.unpack("<i", user.read(4))
        container = _container(user.process, fd)
        if self.container is not None:
            raise fail(errno.EINVAL)
        if container is None:
            raise fail(errno.EBADFD if self._machine.version >= (6, 2) else errno.EINVAL)
        container.join(self._iommu_group, user.process)
        self.container = container
        return 0

    def _open_device(self, user: UserMemory) -> int:
        """A new descriptor of a member: by its address, and perhaps " vf_token=UUID" behind it."""
        name = user.string()
        address, _, options = name.partition(" ")
        function = self._machine.functions.get(address)
        if function is None or function.group != self.number or function.driver != VFIO_DRIVER:
            raise fail(errno.ENODEV)
        if (function.is_mediated and name != address) or self._ownership.is_leaving(address):
            raise fail(errno.ENODEV)
        device = self._ownership.opened_device(address) or self._ownership.new_device(function)
        self._ownership.check_vf_token(function, device, _vf_token(options))
        if self.container is None:
            raise fail(errno.EINVAL)
        if not device.opens:
            device.translate = self.container.admit(device, user.process)
            device.opened_in = self.container
            self._ownership.hand_out(device)
        device.opened()
        self.references += 1
        self.open_devices += 1
        return user.process.install(GroupDeviceFile(self._machine, self._ownership, self, device))

    def _unset_container(self) -> int:
        if self.container is None:
            raise fail(errno.EINVAL)
        if self.open_devices and not self.container.keeps_devices:
            raise fail(errno.EBUSY)
        self.container.leave(self._iommu_group)
        self.container = None
        return 0


class GroupDeviceFile(DeviceFile):
    """A device that was opened through its group."""

    def __init__(self, machine: Machine, ownership: Ownership, group: GroupState, device: DeviceState) -> None:
        super().__init__(machine, ownership)
        self._group = group
        self._device = device

    @property
    def device(self) -> DeviceState:
        return self._device

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request == vfio.VFIO_DEVICE_BIND_IOMMUFD and self._machine.sysfs.nodes():
            # Only a device's own node can be bound.
            raise fail(errno.EINVAL)
        return super().ioctl(request, user)

    def release(self) -> None:
        device = self._device
        device.closed()
        self._ownership.device_closed()
        if not device.opens and device.opened_in is not None:
            device.opened_in.dismiss(device)
        self._group.device_closed()


def _container(process: Process, fd: int) -> ContainerState | IommufdContainer | None:
    """The container that a descriptor is of, or what stands for an iommufd. None for neither. Raises OSError(EBADF)."""
    match process.passed_file(fd, File):
        case ContainerState() as container:
            return container
        case IommufdFile() as iommufd:
            return IommufdContainer(iommufd.context)
        case _:
            return None


def _vf_token(options: str) -> bytes | None:
    """The token in the text behind a device's name, None for no text. Raises OSError(EINVAL) for any other text.

    Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match.
    """
    words = [word for word in options.split(" ") if word]
    if not words:
        return None
    key, _, text = words[0].partition("=")
    try:
        token = uuid.UUID(text)
    except ValueError:
        raise fail(errno.EINVAL) from None
    if len(words) > 1 or key != "vf_token" or str(token) != text.lower():
        raise fail(errno.EINVAL)
    return token.bytes
