"""CdevDevice: a device that is opened by its own node, /dev/vfio/devices/vfioN or noiommu-vfioN."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from typing import Self

from pyvfio.abi import vfio
from pyvfio.device import Device, DeviceGroup
from pyvfio.errors import DeviceBusy, DeviceNotBound, InvalidArgument, VfioError, VfTokenRefused
from pyvfio.explain import no_raw_io, not_asked_for, open_failure
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.iommufd import Iommufd, explain_iommufd
from pyvfio.iommufd.object import IommufdObject, Translation
from pyvfio.kernel import Kernel
from pyvfio.reserved import firmware_claim
from pyvfio.resource import Resource, collected, held_here, opened, require_kind
from pyvfio.sysfs import blocking_members, character_device, group_node, is_noiommu, vfio_device

_ELSEWHERE = "in another process or through a descriptor that no object here owns"


def cdev_node(kernel: Kernel, address: str) -> str:
    """The path of the node of a PCI device that is bound to a VFIO driver.

    Raises DeviceNotBound if the device is not bound, or if the kernel makes no such nodes: CONFIG_VFIO_DEVICE_CDEV does
    from Linux 6.6 on, and from Linux 7.3 on for devices without an IOMMU. Source: the device's directory vfio-dev in
    sysfs.
    """
    device = vfio_device(kernel, address)
    node = character_device(kernel, device.address)
    if node is None:
        reason = "this kernel is built without CONFIG_VFIO_DEVICE_CDEV"
        if device.group is not None and is_noiommu(kernel, device.group):
            reason += ", or is older than Linux 7.3, which has none for devices without an IOMMU"
        raise DeviceNotBound(
            errno.ENODEV,
            f"open device {device.address}",
            meaning=f"it has no node of its own: {reason}",
            advice="Open it through its group: Container instead of Ioas",
        )
    return node


class CdevDevice(Device, IommufdDevice):
    """A Device that is bound to an iommufd. It needs no group, and can move between address spaces while it is open."""

    # Its parts do not wait for what an address space maps.
    _has_own_lock = True

    def __init__(
        self,
        iommufd: Iommufd,
        address: str,
        *,
        vf_token: uuid.UUID | None = None,
        unsafe_noiommu: bool = False,
        parent: IommufdObject | None = None,
        fd: int | None = None,
        bound_as: int | None = None,
    ) -> None:
        """Open the device and bind it to iommufd. It is not attached to anything yet.

        vf_token: as for Group.open_device, from Linux 6.17 on. unsafe_noiommu: take a device without an IOMMU too, from
        Linux 7.3 on. The program then has to give the device physical addresses, which Ioas.physical_range() tells,
        and never the addresses that it maps at. parent: the object of iommufd, an Ioas for example, that closes the
        device when it is closed itself; None for iommufd. fd, bound_as: a descriptor of the device's node that is open
        already, and the device's number in iommufd if it is bound, as from_fd takes them.
        Raises NoIommuError for a device without an IOMMU unless unsafe_noiommu is given, DeviceNotBound, DeviceBusy,
        VfTokenRefused, InvalidArgument for a parent of another iommufd, or VfioError that says what stands in the way.
        A failure leaves nothing open.
        Source: VFIO_DEVICE_BIND_IOMMUFD; drivers/vfio/device_cdev.c.
        """
        require_kind(iommufd, Iommufd, f"open device {address}")
        self._is_noiommu = unsafe_noiommu
        kernel = iommufd.kernel
        try:
            iommufd.require_open()
            if parent is not None and parent.iommufd is not iommufd:
                meaning = f"{parent.name} belongs to another iommufd"
                raise InvalidArgument(errno.EINVAL, f"open device {address}", meaning=meaning)
        except BaseException:
            if fd is not None:
                kernel.close(fd)
            raise
        if fd is None:
            node = cdev_node(kernel, address)
            address = vfio_device(kernel, address).address
            self._is_noiommu = node.rpartition("/")[2].startswith("noiommu-")
            if self._is_noiommu and not unsafe_noiommu:
                raise not_asked_for(f"open device {address}")
            fd = _open_node(kernel, node, address, is_noiommu=self._is_noiommu)
        try:
            self.id = _bind(iommufd, fd, address, vf_token) if bound_as is None else bound_as
        except BaseException:
            kernel.close(fd)
            raise
        Device.__init__(self, fd, address, kernel=kernel, parent=parent or iommufd)

    @classmethod
    def from_fd(
        cls,
        iommufd: Iommufd,
        fd: int,
        address: str,
        *,
        vf_token: uuid.UUID | None = None,
        is_noiommu: bool = False,
        parent: IommufdObject | None = None,
        bound_as: int | None = None,
        attached_to: Translation | None = None,
    ) -> Self:
        """A device from a descriptor of its node that is open already, handed over by a process that may open it for
        example, or that goes on in this one.

        Takes fd over: it is closed with the device, or here when this fails. address: the device's name in sysfs.
        is_noiommu: whether the node is called noiommu-vfioN. bound_as: the device's number in iommufd, whose descriptor
        is a copy of the one that it was bound to; None: it is bound now. attached_to: what its DMA goes through, if it
        was attached. Raises what opening the device raises.
        """
        device = cls(
            iommufd, address, vf_token=vf_token, unsafe_noiommu=is_noiommu, parent=parent, fd=fd, bound_as=bound_as
        )
        if attached_to is not None:
            iommufd.attachments.enter(device, None, attached_to)
        return device

    @property
    def is_noiommu(self) -> bool:
        """Whether there is no IOMMU behind the device. UNSAFE then: see pyvfio.noiommu.

        Nothing translates the addresses that such a device is given, and nothing stops it, whether it is attached or
        not: it takes each address for one of the host's physical memory.
        """
        return self._is_noiommu

    def _attach_ioctl(self, target_id: int, pasid: int | None, *, replaces: bool) -> None:
        # The kernel replaces what there is by itself.
        del replaces
        argument = vfio.vfio_device_attach_iommufd_pt(pt_id=target_id)
        if pasid is not None:
            argument.flags, argument.pasid = vfio.VFIO_DEVICE_ATTACH_PASID, pasid
        self.kernel.ioctl(self.fd, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, argument)

    def _detach_ioctl(self, pasid: int | None) -> None:
        argument = vfio.vfio_device_detach_iommufd_pt()
        if pasid is not None:
            argument.flags, argument.pasid = vfio.VFIO_DEVICE_DETACH_PASID, pasid
        self.kernel.ioctl(self.fd, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, argument)

    def _release(self) -> None:
        try:
            # Closing its descriptor unbinds the device: it is the one object that the iommufd does not destroy.
            super()._release()
        finally:
            self.iommufd.attachments.forget(self)


def _open_node(kernel: Kernel, node: str, address: str, *, is_noiommu: bool) -> int:
    """A descriptor of the device's node. Raises VfioError."""
    operation = f"open device {address}"
    try:
        return kernel.open(node, os.O_RDWR)
    except OSError as error:
        if is_noiommu and error.errno == errno.EPERM:
            raise no_raw_io(operation) from error
        raise open_failure(error, operation, node, "vfio-pci", address) from error


def _bind(iommufd: Iommufd, fd: int, address: str, vf_token: uuid.UUID | None) -> int:
    """Bind the device of a descriptor to iommufd; return its number there. Raises VfioError."""
    bind = vfio.vfio_device_bind_iommufd(iommufd=iommufd.fd)
    token = ctypes.create_string_buffer(vf_token.bytes if vf_token else b"", 16)
    if vf_token:
        bind.flags, bind.token_uuid_ptr = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN, ctypes.addressof(token)
    try:
        try:
            iommufd.kernel.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind)
        except OSError as error:
            # EINVAL: the device is open, among others. EBUSY: its group is.
            if error.errno not in (errno.EBUSY, errno.EINVAL) or not collected(
                Resource, lambda other: _is_in_the_way(other, iommufd.kernel, address)
            ):
                raise
            iommufd.kernel.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind)
    except OSError as error:
        raise _bind_failure(error, iommufd.kernel, address, vf_token) from error
    return bind.out_devid


def _is_in_the_way(other: Resource, kernel: Kernel, address: str) -> bool:
    """Whether an open object keeps the device from being bound: the device itself, or its group."""
    if isinstance(other, DeviceGroup):
        return other.number == vfio_device(kernel, address).group
    return isinstance(other, Device) and other.address == address


def _bind_failure(error: OSError, kernel: Kernel, address: str, vf_token: uuid.UUID | None) -> VfioError:
    """The kernel's refusal to bind the device, in words: by what sysfs tells of its group."""
    code = error.errno or errno.EIO
    operation = f"open device {address}"
    group = vfio_device(kernel, address).group
    if (
        code in (errno.EINVAL, errno.EPERM)
        and group is not None
        and (claim := firmware_claim(kernel, group, operation))
    ):
        return claim
    holder = opened(Resource, lambda other: _is_in_the_way(other, kernel, address))
    match code:
        case errno.EINVAL if holder is not None:
            meaning, advice = held_here(holder)
            return DeviceBusy(code, operation, meaning=meaning, advice=advice)
        case errno.EBUSY:
            node = "" if group is None else f" as {group_node(kernel, group)}"
            who, advice = (_ELSEWHERE, "Close it there") if holder is None else held_here(holder)
            meaning = f"its group {group} is open{node}, so the device is not opened by its own: {who}"
            return DeviceBusy(code, operation, meaning=meaning, advice=advice)
        case errno.ENOTTY:
            meaning = "the descriptor is not of a device's own node"
            return VfioError(code, operation, meaning=meaning, advice="Open one in /dev/vfio/devices")
        case errno.EINVAL if vf_token:
            meaning = (
                f"it is open already, {_ELSEWHERE}, it takes no VF token, or nodes take none on this kernel (before "
                "Linux 6.17)"
            )
            return VfioError(code, operation, meaning=meaning)
        case errno.EINVAL:
            meaning = f"it is open already, {_ELSEWHERE}, or its DMA is not coherent with the caches"
            return DeviceBusy(code, operation, meaning=meaning, advice="Close it there: a node gives one user access")
        case errno.EPERM:
            blocking = [] if group is None else blocking_members(kernel, group)
            who = ", ".join(f"{member.address} is bound to {member.driver}" for member in blocking)
            meaning = f"group {group}: {who}" if who else "the platform cannot remap interrupts, or its group is used"
            advice = (
                f"Every device of a group must be bound to a VFIO driver or to none: pyvfio bind --group {address}"
                if who
                else "If every device is trusted: modprobe iommufd allow_unsafe_interrupts=1"
            )
            return VfioError(code, operation, meaning=meaning, advice=advice)
        case errno.EACCES:
            return VfTokenRefused.at_open(address, given=vf_token is not None)
        case _:
            return explain_iommufd(error, operation)
