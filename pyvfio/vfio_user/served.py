"""Served: what a server needs of the device that it serves; and ServedDevice, which is any device of this library."""

from __future__ import annotations

import ctypes
import errno
from typing import Protocol

from pyvfio.abi import vfio
from pyvfio.device import Device, DeviceInfo, InterruptInfo
from pyvfio.errors import VfioError
from pyvfio.kernel import query


class Served(Protocol):
    """A device as VFIO shows it, for one client at a time. Indexes, flags and structs are those of linux/vfio.h.

    Each method raises OSError with the errno that the client is to get; the session goes on then. The server checks
    what the client sends only as far as messages go: whether there is such an index or offset is for these to say.
    """

    @property
    def info(self) -> DeviceInfo:
        """What kind of device it is, and how many regions and interrupt indexes it has."""

    def region_info(self, index: int) -> bytes:
        """A vfio_region_info with its capabilities behind it."""

    def region_file(self, index: int) -> int | None:
        """The descriptor that the client may map the region from, at the offset that region_info() tells; None if it is
        to read and write it by messages. It stays the device's."""

    def interrupt_info(self, index: int) -> InterruptInfo:
        """How many vectors an index has, and what can be done with them."""

    def set_interrupts(self, flags: int, index: int, start: int, count: int, data: bytes) -> None:
        """VFIO_DEVICE_SET_IRQS. data: what follows the struct: nothing, a byte or a descriptor for each vector, -1 for
        none. The descriptors are the caller's, and may be anything that is open; the device keeps what it needs."""

    def read(self, index: int, offset: int, size: int) -> bytes:
        """size bytes of a region, from offset on."""

    def write(self, index: int, offset: int, data: bytes) -> None:
        """Write bytes to a region."""

    def reset(self) -> None:
        """Reset the device. It is called only if info.flags say that the device can be."""


class ServedDevice:
    """A Device, which stays the caller's, as a server serves it: every command is a call to its kernel.

    The program that serves it leaves it alone meanwhile: its interrupts, its bus mastering and what its registers hold
    are the client's.
    """

    def __init__(self, device: Device, *, shares_file: bool | None = None) -> None:
        """shares_file: whether the client may map registers from the device's own descriptor, so that no message is
        needed to reach them. Whoever has that descriptor can do all that the device's ioctls do, past this server:
        reset it, set its interrupts, write its config space. It cannot map memory for DMA. It keeps the device open,
        with all that is mapped for it, as long as it lives. None: if the device is a real one; a simulated one has no
        file to map.
        """
        self.device = device
        self._shares_file = device.kernel.name == "real" if shares_file is None else shares_file

    @property
    def info(self) -> DeviceInfo:
        return self.device.info

    def region_info(self, index: int) -> bytes:
        with self.device.descriptor.in_use() as fd:
            struct = vfio.vfio_region_info
            return query(self.device.kernel, fd, vfio.VFIO_DEVICE_GET_REGION_INFO, struct, index)[1]

    def region_file(self, index: int) -> int | None:
        del index
        return self.device.fd if self._shares_file else None

    def interrupt_info(self, index: int) -> InterruptInfo:
        return self.device.interrupts(index).info

    def set_interrupts(self, flags: int, index: int, start: int, count: int, data: bytes) -> None:
        size = ctypes.sizeof(vfio.vfio_irq_set) + len(data)
        head = vfio.vfio_irq_set(argsz=size, flags=flags, index=index, start=start, count=count)
        buffer = ctypes.create_string_buffer(bytes(head) + data, size)
        with self.device.descriptor.in_use() as fd:
            result = self.device.kernel.ioctl(fd, vfio.VFIO_DEVICE_SET_IRQS, buffer)
        if result > 0:
            # As many vectors as the host could have provided.
            meaning = f"the host can provide only {result}"
            raise VfioError(errno.ENOSPC, f"set interrupts {index} of {self.device.address}", {}, meaning)

    def read(self, index: int, offset: int, size: int) -> bytes:
        return self.device.region(index).read(offset, size)

    def write(self, index: int, offset: int, data: bytes) -> None:
        self.device.region(index).write(offset, data)

    def reset(self) -> None:
        self.device.reset()
