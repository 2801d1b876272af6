"""The memory a system call's argument points to."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from pyvfio.kernel import IoctlArgument

if TYPE_CHECKING:
    from pyvfio.sim.process.process import Process

S = TypeVar("S", bound=ctypes.Structure)

# Of x86-64 with four levels of page tables: the last page is nobody's.
_END_OF_USER_SPACE = (1 << 47) - 4096


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class UserMemory:
    """Reads and writes at an ioctl's argument, in place. What cannot be reached is EFAULT, as copy_from_user says.

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
            write_memory(self._address + offset, data)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.read(4, offset), "little")

    def struct(self, kind: type[S], size: int) -> S:
        """The first size bytes as a struct."""
        return kind.from_buffer_copy(self.read(size).ljust(ctypes.sizeof(kind), b"\0"))

    def string(self) -> str:
        """Up to the terminating NUL, which must come within a page."""
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
    """Whether all of it is in a process's half of the address space, as access_ok tells."""
    return address + size <= _END_OF_USER_SPACE


def read_memory(address: int, size: int) -> bytes:
    """This process's memory, wherever it may be, as far as the process itself may read it."""
    buffer = ctypes.create_string_buffer(size)
    _transfer(_process_vm("process_vm_readv"), buffer, address, size)
    return buffer.raw[:size]


def write_memory(address: int, data: bytes) -> None:
    """This process's memory, as far as the process itself may write it. A failure may have written some of it."""
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
