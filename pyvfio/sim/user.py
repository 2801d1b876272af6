"""The memory a system call's argument points to."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TypeVar

from pyvfio.kernel import IoctlArgument

S = TypeVar("S", bound=ctypes.Structure)


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class UserMemory:
    """Reads and writes at an ioctl's argument, in place. What cannot be reached is EFAULT, as copy_from_user says."""

    def __init__(self, argument: IoctlArgument) -> None:
        self._is_object = not isinstance(argument, int)
        self._address = argument if isinstance(argument, int) else ctypes.addressof(argument)
        self._size = 0 if isinstance(argument, int) else ctypes.sizeof(argument)

    @property
    def value(self) -> int:
        """The argument itself, where it is passed by value."""
        return self._address

    def read(self, size: int, offset: int = 0) -> bytes:
        if self._is_object:
            if offset + size > self._size:
                raise fail(errno.EFAULT)
            return ctypes.string_at(self._address + offset, size)
        return read_memory(self._address + offset, size)

    def write(self, data: bytes, offset: int = 0) -> None:
        if self._is_object:
            if offset + len(data) > self._size:
                raise fail(errno.EFAULT)
            ctypes.memmove(self._address + offset, data, len(data))
        else:
            _write_memory(self._address + offset, data)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.read(4, offset), "little")

    def struct(self, kind: type[S], size: int) -> S:
        """The first size bytes as a struct."""
        return kind.from_buffer_copy(self.read(size).ljust(ctypes.sizeof(kind), b"\0"))

    def string(self) -> str:
        """Up to the terminating NUL."""
        text = b""
        while len(text) < 4096:
            byte = self.read(1, len(text))
            if byte == b"\0":
                return text.decode(errors="replace")
            text += byte
        raise fail(errno.EINVAL)


def read_memory(address: int, size: int) -> bytes:
    """This process's memory, wherever it may be."""
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        try:
            data = os.pread(memory.fileno(), size, address)
        except (OSError, OverflowError):
            data = b""
    if len(data) < size:
        raise fail(errno.EFAULT)
    return data


def _write_memory(address: int, data: bytes) -> None:
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        try:
            written = os.pwrite(memory.fileno(), data, address)
        except (OSError, OverflowError):
            written = 0
    if written < len(data):
        raise fail(errno.EFAULT)
