"""GuestBytes: the bytes of a file that a front end shares, read and written without trusting that they stay there.

A front end can shorten its file at any moment, and its huge pages can be gone when they are first touched. Touching
such memory through a mapping is a signal (SIGBUS), which ends the whole process. So only a file that cannot shrink is
read and written through its mapping; any other one through the kernel, which answers EFAULT instead.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import sys
from typing import Final, Protocol

from pyvfio.kernel import Window, host_page_size
from virtiomem.vhost_user.abi import futex
from virtiomem.vhost_user.errors import QueueBroken

_TRIES: Final = 1000
# futex, process_vm_readv, process_vm_writev. Source: asm/unistd.h of each architecture.
_GENERIC: Final = (98, 270, 271)
_NUMBERS: Final = {
    "x86_64": (202, 310, 311),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (221, 351, 352),
    "s390x": (238, 340, 341),
}


class GuestBytes(Protocol):
    """Offsets are bytes from where the memory begins. load() and store() are one access of width bytes, little endian
    and aligned to it, which read() and write() are not.

    Each raises QueueBroken if the memory is not there any more.
    """

    def load(self, offset: int, width: int) -> int:
        """The number at offset."""

    def store(self, offset: int, width: int, value: int) -> None:
        """Write value at offset. This process alone writes the 4 bytes around it that are aligned to 4.

        Of 8 bytes the last one is not seen before the others, and a process that is killed has stored all or none.
        """

    def read(self, offset: int, size: int) -> bytes:
        """A copy of size bytes at offset, made once."""

    def write(self, offset: int, data: bytes) -> None:
        """Copy data to offset."""

    def release(self) -> None:
        """Let no access be made from now on: the memory is about to be unmapped."""


def stays(fd: int, page_size: int) -> bool:
    """Whether what is mapped of a file can be touched as long as it is mapped: nobody can shorten it (F_SEAL_SHRINK),
    and its pages need no pool that may be empty. Source: fcntl(2), memfd_create(2)."""
    if page_size != host_page_size():
        return False
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        # Not a file of shared memory: such files have no seals.
        return False


class MappedBytes:
    """GuestBytes of a file that stays: through its mapping."""

    def __init__(self, window: Window) -> None:
        """window: onto the mapping. It belongs to this object."""
        self._window = window

    def load(self, offset: int, width: int) -> int:
        return self._window.load(offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        self._window.store(offset, width, value)

    def read(self, offset: int, size: int) -> bytes:
        return self._window.views[1][offset : offset + size].tobytes()

    def write(self, offset: int, data: bytes) -> None:
        self._window.views[1][offset : offset + len(data)] = data

    def release(self) -> None:
        self._window.release()


class CopiedBytes:
    """GuestBytes of any file: through the kernel, which copies from this process's memory and to it."""

    def __init__(self, address: int, size: int) -> None:
        """size bytes are mapped at address in this process. Raises QueueBroken on a processor that is not known."""
        self._address = address
        self._size = size
        self._libc = ctypes.CDLL(None, use_errno=True)
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or sys.byteorder != "little":
            meaning = "memory that its front end may shorten is not served on this processor"
            raise QueueBroken(errno.ENOSYS, "ring", meaning=meaning)
        self._futex, self._readv, self._writev = numbers
        self._word = ctypes.c_uint32()

    def load(self, offset: int, width: int) -> int:
        # A copy of the kernel's may be several accesses. Two that are alike have seen no half of a change.
        before = self.read(offset, width)
        for _ in range(_TRIES):
            again = self.read(offset, width)
            if again == before:
                break
            before = again
        return int.from_bytes(before, "little")

    def store(self, offset: int, width: int, value: int) -> None:
        if width <= 4 and self._add(offset, width, value):
            return
        # The kernel copies 8 bytes at once, or one after the other, upwards; no signal comes between.
        self.write(offset, value.to_bytes(width, "little"))

    def read(self, offset: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        self._copy(self._readv, data, offset, size)
        return data.raw

    def write(self, offset: int, data: bytes) -> None:
        self._copy(self._writev, ctypes.create_string_buffer(data, len(data)), offset, len(data))

    def release(self) -> None:
        self._size = 0

    def _add(self, offset: int, width: int, value: int) -> bool:
        """Store by adding a power of two to the word around it, as a ring's index moves, with one atomic access of the
        kernel's; whether that is what it takes. Source: futex(2), FUTEX_WAKE_OP."""
        place, shift = offset & ~3, 8 * (offset & 3)
        word = int.from_bytes(self.read(place, 4), "little")
        mask = (1 << 8 * width) - 1 << shift
        difference = ((word & ~mask | value << shift) - word) & 0xFFFF_FFFF
        if not difference or difference & (difference - 1):
            return not difference
        operation = (futex.FUTEX_OP_ADD | futex.FUTEX_OP_OPARG_SHIFT) << 28 | (difference.bit_length() - 1) << 12
        self._call(
            self._futex,
            ctypes.byref(self._word),
            ctypes.c_long(futex.FUTEX_WAKE_OP | futex.FUTEX_PRIVATE_FLAG),
            ctypes.c_long(0),
            ctypes.c_long(0),
            ctypes.c_void_p(self._address + place),
            ctypes.c_long(operation),
        )
        return True

    def _copy(self, number: int, data: ctypes.Array[ctypes.c_char], offset: int, size: int) -> None:
        if not 0 <= offset <= self._size - size:
            raise QueueBroken(
                errno.EFAULT, "ring", {"offset": offset, "size": size}, "the memory is not shared any more"
            )
        local = (ctypes.c_size_t * 2)(ctypes.addressof(data), size)
        remote = (ctypes.c_size_t * 2)(self._address + offset, size)
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        self._call(number, ctypes.c_long(os.getpid()), local, one, remote, one, none, expected=size)

    def _call(self, number: int, *arguments: object, expected: int | None = None) -> None:
        result = self._libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0 or expected not in (None, result):
            code = ctypes.get_errno() if result < 0 else errno.EFAULT
            meaning = "the memory is not there any more: its file has become too short, or has no pages left"
            raise QueueBroken(code, "ring", meaning=meaning if code == errno.EFAULT else "")
