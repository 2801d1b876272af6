"""Devices opened by their own nodes. Source: drivers/vfio/device_cdev.c."""

from __future__ import annotations

import errno
import struct

from pyvfio.abi import vfio
from pyvfio.sim.iommufd import FunctionDevice, IommufdFile
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import UserMemory, fail, read_memory
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.device_file import DeviceFile
from pyvfio.sim.vfio.iommufd import bind
from pyvfio.sim.vfio.ownership import Ownership


class CdevState(DeviceFile):
    """An open /dev/vfio/devices/vfioN. Until it is bound to an iommufd, all that it can do is to be bound."""

    def __init__(self, machine: Machine, ownership: Ownership, address: str) -> None:
        super().__init__(machine, ownership)
        self._address = address
        self._device: DeviceState | None = None

    @property
    def device(self) -> DeviceState:
        if self._device is None:
            raise fail(errno.EINVAL)
        return self._device

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request == vfio.VFIO_DEVICE_BIND_IOMMUFD:
            return self._bind(user)
        match request:
            case vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT:
                return self._attach(self._bound, user)
            case vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT:
                return self._detach(self._bound, user)
            case _:
                return super().ioctl(request, user)

    def release(self) -> None:
        if self._device is not None:
            self._device.closed()
            self._bound.unbind()
            self._ownership.unblock_group(self._address)
            self._ownership.device_closed()

    def _bind(self, user: UserMemory) -> int:
        # Since the struct has a token, what is not known of it must be zero.
        takes_tokens = self._machine.version >= (6, 17)
        if takes_tokens:
            argument = user.extensible(vfio.vfio_device_bind_iommufd, 16)
        else:
            argument = user.struct(vfio.vfio_device_bind_iommufd, 16)
        known = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN if takes_tokens else 0
        if argument.argsz < 16 or argument.flags & ~known or argument.iommufd < 0:
            raise fail(errno.EINVAL)
        self._ownership.block_group(self._address)
        try:
            if self._device is not None:
                raise fail(errno.EINVAL)
            token = read_memory(argument.token_uuid_ptr, 16) if argument.flags else None
            function = self._machine.functions[self._address]
            device = self._ownership.new_device(function)
            if takes_tokens:
                # Before that, a node could be opened without.
                self._ownership.check_vf_token(function, device, token)
            iommufd = user.process.passed_file(argument.iommufd, IommufdFile)
            if iommufd is None:
                raise fail(errno.EBADFD)
            self._ownership.hand_out(device)
            bound = bind(iommufd.context, device)
        except OSError:
            self._ownership.unblock_group(self._address)
            raise
        device.opened()
        self._device = device
        user.write(struct.pack("<I", bound.id), 12)
        return 0

    def _attach(self, bound: FunctionDevice, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_device_attach_iommufd_pt, 12)
        if argument.argsz < 12:
            raise fail(errno.EINVAL)
        if argument.flags & ~self._flags(vfio.VFIO_DEVICE_ATTACH_PASID):
            raise fail(errno.EINVAL)
        pasid = self._pasid(argument.argsz, argument.flags, 12, user)
        # 0 is the kernel's number for no PASID: it attaches the device itself.
        table = bound.attach(argument.pt_id) if pasid == 0 else bound.attach_or_replace(argument.pt_id, pasid)
        user.write(struct.pack("<I", table), 8)
        return 0

    def _detach(self, bound: FunctionDevice, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_device_detach_iommufd_pt, 8)
        if argument.argsz < 8 or argument.flags & ~self._flags(vfio.VFIO_DEVICE_DETACH_PASID):
            raise fail(errno.EINVAL)
        bound.detach(self._pasid(argument.argsz, argument.flags, 8, user))
        return 0

    @property
    def _bound(self) -> FunctionDevice:
        """Raises OSError(EINVAL) before it is bound."""
        bound = self.device.bound
        assert bound is not None
        return bound

    def _flags(self, pasid: int) -> int:
        """The flags that this version knows."""
        return pasid if self._machine.version >= (6, 15) else 0

    def _pasid(self, argsz: int, flags: int, offset: int, user: UserMemory) -> int | None:
        """The PASID at an offset of the argument; None if the flag for it is not set."""
        if not flags:
            return None
        if argsz < offset + 4:
            raise fail(errno.EINVAL)
        return user.u32(offset)
