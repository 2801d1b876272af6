"""The memory a system call's argument points to."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from typing import TypeVar, cast

from pyvfio.kernel import IoctlArgument
from pyvfio.sim.process.failure import fail
from pyvfio.sim.process.process import Process

S = TypeVar("S", bound=ctypes.Structure)

# Of x86-64 with four levels of page tables: the last page is nobody's.
_END_OF_USER_SPACE = (1 << 47) - 4096


class UserMemory:
    """An ioctl's argument, read and written in place. Raises OSError(EFAULT) where there is no memory.

    process: the one that makes the call.
    """

    def __init__(self, argument: IoctlArgument, process: Process) -> None:
        self.process = process
        # An object whose memory is its own is there; one that stands for an address may point anywhere.
        self._is_object = not isinstance(argument, int) and bool(argument._b_needsfree_)
        self._address = argument if isinstance(argument, int) else ctypes.addressof(argument)
        self._size = 0 if isinstance(argument, int) else ctypes.sizeof(argument)

    @property
    def value(self) -> int:
        """The argument itself, of an ioctl that takes it by value."""
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
            write_memory(self._address + offset, data)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.read(4, offset), "little")

    def struct(self, kind: type[S], size: int) -> S:
        """The first size bytes as a struct, whose other fields are zero."""
        return kind.from_buffer_copy(self.read(size).ljust(ctypes.sizeof(kind), b"\0"))

    def extensible(self, kind: type[S], smallest: int) -> S:
        """A struct that tells its own size in its first four bytes: what this kernel knows nothing of must be zero.

        Raises OSError: EINVAL for less than smallest bytes, E2BIG, EFAULT. Source: copy_struct_from_user.
        """
        size = self.u32(0)
        if size < smallest:
            raise fail(errno.EINVAL)
        known = ctypes.sizeof(kind)
        data = self.read(size)
        if any(data[known:]):
            raise fail(errno.E2BIG)
        return kind.from_buffer_copy(data[:known].ljust(known, b"\0"))

    def string(self) -> str:
        """The text up to its terminating NUL. Raises OSError(EINVAL) if none comes within a page."""
        text = b""
        while len(text) < 4096:
            byte = self.read(1, len(text))
            if byte == b"\0":
                return text.decode(errors="replace")
            text += byte
        raise fail(errno.EINVAL)


class _Span(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("address", ctypes.c_size_t), ("size", ctypes.c_size_t))


def is_user_range(address: int, size: int) -> bool:
    """Whether all of it lies in the half of the address space that is a process's. Source: access_ok."""
    return address + size <= _END_OF_USER_SPACE


def read_memory(address: int, size: int) -> bytes:
    """size bytes at an address of this process. Raises OSError(EFAULT) where the process itself could not read."""
    buffer = ctypes.create_string_buffer(size)
    _transfer(_process_vm("process_vm_readv"), buffer, address, size)
    return buffer.raw[:size]


def write_memory(address: int, data: bytes) -> None:
    """Write at an address of this process. Raises OSError(EFAULT) where the process itself could not write; some of the
    data may have been written by then."""
    buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    _transfer(_process_vm("process_vm_writev"), buffer, address, len(data))


def _transfer(call: Callable[..., int], buffer: ctypes.Array[ctypes.c_char], address: int, size: int) -> None:
    # An invalid address is an error of this call, where a load or store would end the process.
    ours, theirs = _Span(ctypes.addressof(buffer), size), _Span(address, size)
    if size and call(os.getpid(), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) != size:
        raise fail(errno.EFAULT)


@functools.cache
def _process_vm(name: str) -> Callable[..., int]:
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes = (ctypes.c_int, *(ctypes.c_void_p, ctypes.c_ulong) * 2, ctypes.c_ulong)
    function.restype = ctypes.c_ssize_t
    return cast("Callable[..., int]", function)
