"""Devices opened by their own nodes. Source: drivers/vfio/device_cdev.c."""

from __future__ import annotations

import errno
import struct
from functools import partial
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.iommufd.command import command_in
from pyvfio.sim.process.user import UserMemory, fail, read_memory
from pyvfio.sim.vfio.noiommu import reach_physical

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.device import BoundDevice
    from pyvfio.sim.iommufd.main import IommufdState
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.vfio.device import DeviceState


class CdevState:
    """An open /dev/vfio/devices/vfioN. Before it is bound to an iommufd, binding is all it can do."""

    def __init__(self, kernel: SimKernel, address: str) -> None:
        self._kernel = kernel
        self.address = address
        self._device: DeviceState | None = None
        self._iommufd: IommufdState | None = None

    @property
    def device(self) -> DeviceState:
        """Raises OSError(EINVAL) before it is bound."""
        if self._device is None:
            raise fail(errno.EINVAL)
        return self._device

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request == vfio.VFIO_DEVICE_BIND_IOMMUFD:
            return self._bind(user)
        device = self.device
        match request:
            case vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT:
                return self._attach(user)
            case vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT:
                return self._detach(user)
            case _:
                return device.ioctl(request, user)

    def closed(self) -> None:
        if self._device is not None and self._iommufd is not None:
            self._device.closed()
            self._iommufd.unbind(self._device)
            self._kernel.ownership.unblock_group(self.address)

    def _bind(self, user: UserMemory) -> int:
        # Since the struct has a token, what is not known of it must be zero.
        takes_tokens = self._kernel.version >= (6, 17)
        if takes_tokens:
            argument = command_in(user, vfio.vfio_device_bind_iommufd, 16)
        else:
            argument = user.struct(vfio.vfio_device_bind_iommufd, 16)
        known = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN if takes_tokens else 0
        if argument.argsz < 16 or argument.flags & ~known or argument.iommufd < 0:
            raise fail(errno.EINVAL)
        self._kernel.ownership.block_group(self.address)
        try:
            if self._device is not None:
                raise fail(errno.EINVAL)
            token = read_memory(argument.token_uuid_ptr, 16) if argument.flags else None
            device = self._kernel.ownership.new_device(self.address, token)
            iommufd = user.process.iommufd_of(argument.iommufd)
            self._kernel.ownership.hand_out(device)
            bound = iommufd.bind(device)
        except OSError:
            self._kernel.ownership.unblock_group(self.address)
            raise
        device.translate = partial(reach_physical, self._kernel) if not bound.driver.translates else bound.translate
        device.iommufd, device.iommufd_id = iommufd, bound.id
        device.opened()
        self._device, self._iommufd = device, iommufd
        user.write(struct.pack("<I", bound.id), 12)
        return 0

    def _attach(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_device_attach_iommufd_pt, 12)
        if argument.argsz < 12:
            raise fail(errno.EINVAL)
        if argument.flags & ~self._flags(vfio.VFIO_DEVICE_ATTACH_PASID):
            raise fail(errno.EINVAL)
        pasid = self._pasid(argument.argsz, argument.flags, 12, user)
        if pasid == 0:
            # The kernel's number for no PASID: it attaches the device itself.
            table = self._bound.attach(argument.pt_id)
        else:
            table = self._bound.attach_or_replace(argument.pt_id, pasid)
        user.write(struct.pack("<I", table), 8)
        return 0

    def _detach(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_device_detach_iommufd_pt, 8)
        if argument.argsz < 8 or argument.flags & ~self._flags(vfio.VFIO_DEVICE_DETACH_PASID):
            raise fail(errno.EINVAL)
        self._bound.detach(self._pasid(argument.argsz, argument.flags, 8, user))
        return 0

    @property
    def _bound(self) -> BoundDevice:
        assert self._iommufd is not None
        return self._iommufd.bound(self.device)

    def _flags(self, pasid: int) -> int:
        """The flags that this version knows."""
        return pasid if self._kernel.version >= (6, 15) else 0

    def _pasid(self, argsz: int, flags: int, offset: int, user: UserMemory) -> int | None:
        """The process address space that is meant; None for none."""
        if not flags:
            return None
        if argsz < offset + 4:
            raise fail(errno.EINVAL)
        return user.u32(offset)
