"""Group: the devices an IOMMU cannot tell apart, opened as one."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from contextlib import suppress
from functools import partial
from typing import Self

from pyvfio.abi import vfio
from pyvfio.container.info import FIRMWARE
from pyvfio.container.meanings import (
    ATTACH,
    ATTACH_MAPPED,
    MIXED,
    OPEN_DEVICE,
    OPEN_DEVICE_IOMMUFD,
    OPEN_DEVICE_MAPPED,
)
from pyvfio.device import Device, DeviceGroup
from pyvfio.dma import MappingSpace
from pyvfio.errors import DeviceBusy, DeviceNotBound, GroupBusy, GroupNotViable, VfioError, VfTokenRefused
from pyvfio.explain import Meanings, explain, no_raw_io, permit
from pyvfio.kernel import Descriptor, Kernel, LinuxKernel
from pyvfio.reserved import firmware_claim
from pyvfio.resource import Resource, collected, held_here, opened, require_kind
from pyvfio.sysfs import blocking_members, group_members, vfio_device


class Group(DeviceGroup):
    """/dev/vfio/NUMBER, or noiommu-NUMBER. A group is open at most once in the whole system; its devices can be opened
    after Container.attach().

    kernel: the kernel that the group was opened in. number: as in /sys/kernel/iommu_groups. descriptor: the group's.
    path: the node that it was opened from. is_noiommu: whether there is no IOMMU behind its devices: see
    pyvfio.noiommu.
    """

    # The group can move, and its devices do not wait for what the container maps.
    _has_own_lock = True

    def __init__(
        self,
        number: int,
        *,
        kernel: Kernel | None = None,
        container: MappingSpace | None = None,
        fd: int | None = None,
        is_noiommu: bool = False,
    ) -> None:
        """Open the group. container: the container whose child the group is, attached or not; None for none.

        fd, is_noiommu: a descriptor that is open already, and whether it is noiommu-NUMBER's; see from_fd.
        Raises GroupBusy, DeviceNotBound, or VfioError that says why the node cannot be opened.
        """
        self.kernel = kernel or (container.kernel if isinstance(container, MappingSpace) else LinuxKernel())
        self.number = number
        self.is_noiommu = is_noiommu
        self.path = f"/dev/vfio/{'noiommu-' if is_noiommu else ''}{number}"
        try:
            opened_fd = self._open() if fd is None else fd
        except OSError as error:
            raise self._open_failure(error) from error
        self.descriptor = Descriptor(opened_fd, f"group {number}", partial(self.kernel.close, opened_fd))
        try:
            if container is not None:
                require_kind(container, MappingSpace, f"open group {number}")
            super().__init__(container)
        except BaseException:
            self.descriptor.close()
            raise

    @classmethod
    def from_fd(
        cls,
        fd: int,
        number: int,
        *,
        kernel: Kernel | None = None,
        container: MappingSpace | None = None,
        is_noiommu: bool = False,
    ) -> Self:
        """A group from a descriptor that is open already, received from another process for example.

        Takes fd over: it is closed with the group, or here when this fails. number: the group's number. container: the
        container whose child the group is, attached or not. is_noiommu: whether the descriptor is noiommu-NUMBER's.
        Raises ClosedError if the container is closed.
        """
        return cls(number, kernel=kernel, container=container, fd=fd, is_noiommu=is_noiommu)

    @property
    def viable(self) -> bool:
        """Whether every member is bound to a VFIO driver or to none. Raises VfioError.

        Source: VFIO_GROUP_GET_STATUS.
        """
        return bool(self._status() & vfio.VFIO_GROUP_FLAGS_VIABLE)

    @property
    def attached(self) -> bool:
        """Whether the group is attached to a container. Raises VfioError. Source: VFIO_GROUP_GET_STATUS."""
        return bool(self._status() & vfio.VFIO_GROUP_FLAGS_CONTAINER_SET)

    def require_viable(self) -> None:
        """Raise GroupNotViable, which names the members in the way, unless the group is viable."""
        if not self.viable:
            raise self.not_viable()

    def not_viable(self) -> GroupNotViable:
        """The error that names the members in the way."""
        blocking = blocking_members(self.kernel, self.number)
        who = ", ".join(f"{member.address} is bound to {member.driver}" for member in blocking)
        example = blocking[0].address if blocking else "ADDRESS"
        return GroupNotViable(
            errno.EPERM,
            f"group {self.number}",
            meaning=who or "a member is in a host driver's hands",
            advice=f"Every device of a group must be bound to a VFIO driver or to none: pyvfio bind --group {example}",
        )

    def siblings(self) -> tuple[Group, ...]:
        """The groups of the same container, this one among them."""
        return tuple(child for child in self._siblings() if isinstance(child, Group))

    def require_no_devices(self, operation: str) -> None:
        """Raise DeviceBusy, which names one of them, while devices of the group are open.

        operation: what the message says was tried.
        """
        device = next((child for child in self._children if isinstance(child, Device)), None)
        if device is not None:
            raise DeviceBusy(errno.EBUSY, operation, meaning=f"{device.address} is open", advice="Close it first")

    def open_device(self, address: str, *, vf_token: uuid.UUID | None = None) -> Device:
        """Open a member, by its name in sysfs: for PCI domain:bus:device.function, "0000:03:00.0".

        The group must be attached to a container. The device is the group's child. vf_token: the secret that a virtual
        function needs whose physical function is bound to a VFIO driver, and a physical function with such virtual
        ones in use. Raises DeviceNotBound, VfTokenRefused, GroupNotViable, or VfioError that says what stands in the
        way. Source: VFIO_GROUP_GET_DEVICE_FD; vfio_pci_core.c, vfio_pci_core_match.
        """
        with self._lock:
            self.require_open()
            fd = self._open_member(address, vf_token)
            return Device(fd, address, group=self)

    def _open_member(self, address: str, vf_token: uuid.UUID | None) -> int:
        name = ctypes.create_string_buffer((f"{address} vf_token={vf_token}" if vf_token else address).encode())
        try:
            return self.kernel.ioctl(self.fd, vfio.VFIO_GROUP_GET_DEVICE_FD, name)
        except OSError as error:
            code = error.errno or errno.EIO
            operation = f"open device {address}"
            if code == errno.ENODEV:
                raise self._not_here(address) from error
            if code == errno.EACCES:
                raise VfTokenRefused.at_open(address, given=vf_token is not None) from error
            if code == errno.EPERM and self.is_noiommu:
                raise no_raw_io(operation) from error
            if code == errno.EPERM and not self.viable:
                # Only iommufd's compatibility finds out so late.
                raise self.not_viable() from error
            refused = {**self._open_meanings()}
            if code == errno.EINVAL and not self.attached:
                refused[code] = ("the group is not attached to a container", "Container.attach() it first")
            elif code == errno.EINVAL and vf_token:
                refused[code] = ("it takes no VF token", "Open it without")
            raise explain(error, operation, {}, refused) from error

    def _not_here(self, address: str) -> DeviceNotBound:
        """Why the kernel knows no device of this name in the group."""
        meaning = f"no such device of group {self.number} is bound to a VFIO driver"
        advice = f"pyvfio bind {address}"
        with suppress(OSError):
            found = vfio_device(self.kernel, address)
            if found.group != self.number:
                meaning, advice = f"it is in group {found.group}, not in {self.number}", f"Open group {found.group}"
            elif found.address != address:
                meaning, advice = f"the group calls it {found.address}", f"open_device({found.address!r})"
        return DeviceNotBound(errno.ENODEV, f"open device {address}", meaning=meaning, advice=advice)

    def _open_meanings(self) -> Meanings:
        """What the kernel's refusals to open a device mean in this container."""
        container = self.outermost
        if not isinstance(container, MappingSpace) or not container.is_iommufd:
            return OPEN_DEVICE
        return OPEN_DEVICE_MAPPED if container.may_hold_mappings else OPEN_DEVICE_IOMMUFD

    def _status(self) -> int:
        self.require_open()
        status = vfio.vfio_group_status()
        with self.descriptor.in_use() as fd:
            try:
                self.kernel.ioctl(fd, vfio.VFIO_GROUP_GET_STATUS, status)
            except OSError as error:
                raise explain(error, f"status of group {self.number}") from error
        return status.flags

    def _open(self) -> int:
        try:
            return self._open_node()
        except FileNotFoundError as error:
            with_iommu, self.path = self.path, f"/dev/vfio/noiommu-{self.number}"
            try:
                fd = self._open_node()
            except FileNotFoundError:
                self.path = with_iommu
                raise error from None
            self.is_noiommu = True
            return fd

    def _open_node(self) -> int:
        try:
            return self.kernel.open(self.path, os.O_RDWR)
        except OSError as error:
            if error.errno != errno.EBUSY or not collected(Resource, self._is_in_the_way):
                raise
            return self.kernel.open(self.path, os.O_RDWR)

    def _is_in_the_way(self, other: Resource) -> bool:
        """Whether an open object keeps this group from being opened: the group itself, or a device by its node."""
        if isinstance(other, Group):
            return other.number == self.number
        return isinstance(other, Device) and other.group is None and self._has_member(other.address)

    def _has_member(self, address: str) -> bool:
        return any(member.address == address for member in group_members(self.kernel, self.number))

    def _busy(self, operation: str) -> GroupBusy:
        holder = opened(Resource, self._is_in_the_way)
        if holder is None:
            meaning = "it is open already, in another process or through a descriptor that no object here owns"
            return GroupBusy(errno.EBUSY, operation, meaning=meaning, advice="Close it there")
        meaning, advice = held_here(holder)
        return GroupBusy(errno.EBUSY, operation, meaning=meaning, advice=advice)

    def _open_failure(self, error: OSError) -> VfioError:
        code = error.errno or errno.EIO
        operation = f"open group {self.number}"
        match code:
            case errno.EBUSY:
                return self._busy(operation)
            case errno.ENOENT if bound := self._bound_member():
                return DeviceNotBound(
                    code,
                    operation,
                    meaning=f"{self.path} is not here, though {bound} is bound to a VFIO driver",
                    advice=f"In a container, have the node passed in: docker run --device {self.path}. A kernel "
                    "without nodes of groups (CONFIG_VFIO_GROUP) has the device's own: open it in an Ioas",
                )
            case errno.ENOENT:
                names = ", ".join(member.address for member in group_members(self.kernel, self.number))
                return DeviceNotBound(
                    code,
                    operation,
                    meaning=f"{self.path} does not exist: no member is bound to a VFIO driver",
                    advice=f"pyvfio bind ADDRESS, one of {names}" if names else "There is no such IOMMU group",
                )
            case errno.EPERM if "noiommu" in self.path:
                return no_raw_io(operation)
            case errno.EACCES | errno.EPERM:
                return VfioError(
                    code,
                    operation,
                    meaning=f"no permission for {self.path}",
                    advice=permit(self.path, self._bound_member()),
                )
            case errno.ENODEV:
                meaning = "its last device was taken from the VFIO driver just now"
                return DeviceNotBound(code, operation, meaning=meaning, advice="pyvfio list shows what is bound")
            case _:
                return explain(error, operation, {"node": self.path})

    def _bound_member(self) -> str | None:
        """One that a VFIO driver has. Explaining a failure must not become one."""
        with suppress(OSError):
            return next(
                (each.address for each in group_members(self.kernel, self.number) if each.has_vfio_driver), None
            )
        return None

    def _release(self) -> None:
        self.descriptor.close()

    def __repr__(self) -> str:
        return f"<Group {self.number}{' closed' if self._closed else ''}>"


def take_out(group: Group, error: BaseException) -> bool:
    """Undo VFIO_GROUP_SET_CONTAINER, which the kernel may have carried out before error; whether it is undone."""
    try:
        group.kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
    except OSError as failure:
        if failure.errno != errno.EINVAL:
            error.add_note(f"Taking group {group.number} out again failed too, it stays attached: {failure}")
            return False
    return True


def attach_failure(error: OSError, group: Group, container: MappingSpace, *, mixes: bool) -> VfioError:
    """The error to raise for the kernel's refusal to put a group into a container.

    mixes: whether one of the group and the container has an IOMMU, and the other one has none.
    """
    code = error.errno or errno.EIO
    operation = f"attach group {group.number}"
    if code in (errno.EPERM, errno.EBUSY) and not group.viable:
        return group.not_viable()
    if code == errno.EINVAL and group.attached:
        above = group.outermost
        which = "" if above is group else f": {above!r}"
        where = "in this container already" if above is container else f"in a container already{which}"
        return VfioError(code, operation, meaning=f"it is {where}", advice="detach() it there first")
    if code == errno.EPERM and mixes:
        return VfioError(code, operation, {}, *MIXED[group.is_noiommu])
    if code == errno.EPERM and group.is_noiommu:
        return no_raw_io(operation)
    if code in FIRMWARE and (claim := firmware_claim(group.kernel, group.number, operation)):
        return claim
    return explain(error, operation, {}, ATTACH_MAPPED if container.may_hold_mappings else ATTACH)
