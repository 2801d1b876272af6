"""A device for a program that runs on the running kernel: its regions are memory, which any machine has."""

from __future__ import annotations

import errno
import os

from pyvfio import Device
from pyvfio.abi import mman, vfio
from pyvfio.kernel import LinuxKernel
from pyvfio.kernel.seam import IoctlArgument


class MemoryDevice(LinuxKernel):
    """A kernel that answers the questions about a device. What is mapped of that is memory of this process, without
    pages at first; all other calls, and each access to a register, are the running kernel's and the processor's.

    size: bytes of each region.
    """

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        self.size = size

    def open_device(self) -> Device:
        return Device(self.memfd_create("device", 0), "memory", kernel=self)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0, /) -> int:
        del fd
        assert not isinstance(argument, int)
        match request:
            case vfio.VFIO_DEVICE_GET_INFO:
                info = vfio.vfio_device_info.from_buffer(argument)
                info.flags, info.num_regions, info.num_irqs = 0, 9, 5
            case vfio.VFIO_DEVICE_GET_REGION_INFO:
                region = vfio.vfio_region_info.from_buffer(argument)
                region.flags, region.size, region.offset = 7, self.size, 0
            case _:
                raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return 0

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        del flags, fd, offset, address
        start = super().mmap(length, protection, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
        self.madvise(start, length, mman.MADV_NOHUGEPAGE)
        return start
