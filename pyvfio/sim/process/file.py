"""What a descriptor is of. Source: linux/fs.h, struct file_operations."""

from __future__ import annotations

import errno
import os

from pyvfio.sim.process.area import Registers, VmArea
from pyvfio.sim.process.failure import fail
from pyvfio.sim.process.user import UserMemory


class File:
    """An open file, and what can be done with it. Every operation raises OSError as the kernel's does.

    The operations here are those of a file that has none: what Linux answers then.
    """

    def ioctl(self, request: int, user: UserMemory) -> int:
        """user: the argument, and the process that makes the call."""
        del request, user
        raise fail(errno.ENOTTY)

    def read(self, size: int) -> bytes:
        """At most size bytes from where the last read ended."""
        del size
        raise fail(errno.EINVAL)

    def write(self, data: bytes) -> int:
        """How many bytes were taken."""
        del data
        raise fail(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        """At most size bytes from offset."""
        del size, offset
        raise fail(errno.EINVAL)

    def pwrite(self, data: bytes, offset: int) -> int:
        """How many bytes were taken, for offset."""
        del data, offset
        raise fail(errno.EINVAL)

    def mmap(self, length: int, protection: int, flags: int, offset: int) -> VmArea:
        """What the process gets at the address that it maps the file at."""
        del length, protection, flags, offset
        raise fail(errno.ENODEV)

    def descriptor(self) -> int:
        """A new descriptor of the running kernel's, whose readiness poll() tells: here, always ready."""
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def release(self) -> None:
        """The last descriptor is closed."""


class Stream(File):
    """A file without positions."""

    def pread(self, size: int, offset: int) -> bytes:
        del size, offset
        raise fail(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        del data, offset
        raise fail(errno.ESPIPE)


class Text(File):
    """A file whose content was made when it was opened."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self.pread(size, self._position)
        self._position += len(data)
        return data

    def pread(self, size: int, offset: int) -> bytes:
        return self._content[offset : offset + size]


class RegisterFile(File):
    """size bytes of a device's registers in a dma-buf."""

    def __init__(self, size: int, registers: Registers) -> None:
        self.size = size
        self.registers = registers
