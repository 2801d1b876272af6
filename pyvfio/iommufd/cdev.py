"""CdevDevice: a device opened by its own node, /dev/vfio/devices/vfioN or noiommu-vfioN, and bound to an iommufd."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from typing import Self

from pyvfio.abi import vfio
from pyvfio.device import Device
from pyvfio.errors import DeviceBusy, DeviceNotBound, VfioError, VfTokenRefused
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.iommufd import Iommufd, explain_iommufd
from pyvfio.kernel import Kernel
from pyvfio.noiommu import no_raw_io, not_asked_for
from pyvfio.open_errors import open_failure
from pyvfio.reserved import firmware_claim
from pyvfio.resource import Resource
from pyvfio.sysfs import blocking_members, character_device, group_node, is_noiommu, vfio_device


def cdev_node(kernel: Kernel, address: str) -> str:
    """The node of a PCI device that a VFIO driver has.

    Raises DeviceNotBound, also where the kernel makes no such nodes (CONFIG_VFIO_DEVICE_CDEV, Linux 6.6; for devices
    without an IOMMU Linux 7.3). Source: the directory vfio-dev of the device in sysfs.
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
    """A Device of an iommufd: no group is needed, and it may move from one address space to another while open.

    is_noiommu: there is no IOMMU. Then nothing translates what the device is told, and nothing stops it, attached or
    not: what it takes for an address is one of the host's physical memory. UNSAFE: see pyvfio.noiommu.
    """

    def __init__(
        self,
        iommufd: Iommufd,
        address: str,
        *,
        vf_token: uuid.UUID | None = None,
        unsafe_noiommu: bool = False,
        parent: Resource | None = None,
    ) -> None:
        """Open the device and bind it to iommufd, whose child it is unless parent says otherwise. Not attached yet.

        vf_token: see Group.open_device; Linux 6.17. unsafe_noiommu: take a device without an IOMMU too, Linux 7.3; the
        program then gives it physical addresses, which Ioas.physical_range() tells, and never those it maps at.
        Raises NoIommuError for such a device without it, DeviceNotBound, DeviceBusy, VfTokenRefused, or VfioError that
        says what stands in the way; nothing stays open then.
        Source: VFIO_DEVICE_BIND_IOMMUFD; drivers/vfio/device_cdev.c.
        """
        kernel = iommufd.kernel
        iommufd._check_open()
        node = cdev_node(kernel, address)
        address = vfio_device(kernel, address).address
        self._is_noiommu = node.rpartition("/")[2].startswith("noiommu-")
        if self.is_noiommu and not unsafe_noiommu:
            raise not_asked_for(f"open device {address}")
        try:
            fd = kernel.open(node, os.O_RDWR)
        except OSError as error:
            if self.is_noiommu and error.errno == errno.EPERM:
                raise no_raw_io(f"open device {address}") from error
            raise open_failure(error, f"open device {address}", node, "vfio-pci", address) from error
        self._bind(iommufd, fd, address, vf_token, parent)

    @classmethod
    def from_fd(
        cls,
        iommufd: Iommufd,
        fd: int,
        address: str,
        *,
        vf_token: uuid.UUID | None = None,
        is_noiommu: bool = False,
        parent: Resource | None = None,
    ) -> Self:
        """A device of a descriptor of its node, open already and not bound, from whoever may open it for example.

        Takes fd over: it is closed with the device, or here when this fails. address: its name in sysfs. is_noiommu:
        whether its node is noiommu-vfioN. Raises what opening it does.
        """
        device = cls.__new__(cls)
        device._is_noiommu = is_noiommu
        try:
            iommufd._check_open()
        except BaseException:
            iommufd.kernel.close(fd)
            raise
        device._bind(iommufd, fd, address, vf_token, parent)
        return device

    def _bind(
        self, iommufd: Iommufd, fd: int, address: str, vf_token: uuid.UUID | None, parent: Resource | None
    ) -> None:
        """Closes fd when it fails."""
        kernel = iommufd.kernel
        bind = vfio.vfio_device_bind_iommufd(iommufd=iommufd.fd)
        token = ctypes.create_string_buffer(vf_token.bytes if vf_token else b"", 16)
        if vf_token:
            bind.flags, bind.token_uuid_ptr = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN, ctypes.addressof(token)
        try:
            kernel.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind)
        except OSError as error:
            kernel.close(fd)
            raise _bind_failure(error, kernel, address, vf_token) from error
        self._bound(iommufd, bind.out_devid)
        Device.__init__(self, fd, address, kernel=kernel, parent=parent or iommufd)

    @property
    def is_noiommu(self) -> bool:
        """Whether there is no IOMMU behind it: its DMA goes to physical addresses. See pyvfio.noiommu."""
        return self._is_noiommu

    def _attach_ioctl(self, target_id: int, pasid: int | None) -> None:
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
            super()._release()
        finally:
            self._gone()


def _bind_failure(error: OSError, kernel: Kernel, address: str, vf_token: uuid.UUID | None) -> VfioError:
    code = error.errno or errno.EIO
    operation = f"open device {address}"
    group = vfio_device(kernel, address).group
    if (
        code in (errno.EINVAL, errno.EPERM)
        and group is not None
        and (claim := firmware_claim(kernel, group, operation))
    ):
        return claim
    match code:
        case errno.EBUSY:
            node = "" if group is None else f" as {group_node(kernel, group)}"
            meaning = f"its group {group} is open{node}, here or in another process"
            return DeviceBusy(code, operation, meaning=meaning, advice="Close it there: a device is opened in one way")
        case errno.ENOTTY:
            meaning = "the descriptor is none of a device's own node"
            return VfioError(code, operation, meaning=meaning, advice="Open one in /dev/vfio/devices")
        case errno.EINVAL if vf_token:
            meaning = "it is open already, it takes no VF token, or nodes take none on this kernel (before Linux 6.17)"
            return VfioError(code, operation, meaning=meaning)
        case errno.EINVAL:
            meaning = "it is open already, here or in another process, or its DMA is not coherent with the caches"
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
