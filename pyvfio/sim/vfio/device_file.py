"""A descriptor of a device, however it was opened. Source: drivers/vfio/vfio_main.c, struct vfio_device_file."""

from __future__ import annotations

from abc import abstractmethod

from pyvfio.abi import vfio
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, UserMemory, VmArea
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.hot_reset import hot_reset, hot_reset_info
from pyvfio.sim.vfio.ownership import Ownership


class DeviceFile(File):
    """What can be done with a device once a program has access to it."""

    def __init__(self, machine: Machine, ownership: Ownership) -> None:
        self._machine = machine
        self._ownership = ownership
        self._position = 0

    @property
    @abstractmethod
    def device(self) -> DeviceState:
        """Raises OSError(EINVAL) while the program has no access."""

    def ioctl(self, request: int, user: UserMemory) -> int:
        device = self.device
        match request:
            case vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
                return hot_reset_info(self._machine, self._ownership, device, user)
            case vfio.VFIO_DEVICE_PCI_HOT_RESET:
                return hot_reset(self._machine, self._ownership, device, user)
            case _:
                return device.ioctl(request, user)

    def read(self, size: int) -> bytes:
        data = self.pread(size, self._position)
        self._position += len(data)
        return data

    def write(self, data: bytes) -> int:
        written = self.pwrite(data, self._position)
        self._position += written
        return written

    def pread(self, size: int, offset: int) -> bytes:
        return self.device.pread(size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        return self.device.pwrite(data, offset)

    def mmap(self, length: int, protection: int, flags: int, offset: int) -> VmArea:
        del protection
        return self.device.mmap(length, flags, offset)
