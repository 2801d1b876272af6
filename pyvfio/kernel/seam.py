"""Kernel: what every system call of pyvfio and virtiomem goes through.

LinuxKernel makes the call. A simulated kernel (pyvfio.sim) answers it instead, and FaultyKernel (pyvfio.faults) makes
one fail. All raise plain OSError with the kernel's errno; the layer that knows what was attempted explains it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from pyvfio.kernel.timeouts import Deadline

IoctlArgument = int | ctypes.Structure | ctypes.Array[ctypes.c_char] | ctypes.c_int32
"""What an ioctl takes: a number, or an object that the call reads and writes in place."""


class Kernel(Protocol):
    """The system calls that the libraries make. Sizes, offsets and addresses are bytes; descriptors are ints.

    Each method is the system call of its name, and raises OSError with its errno. Then nothing has changed, unless the
    documentation of the system call says otherwise.
    """

    @property
    def name(self) -> str:
        """ "real" or "simulated"."""

    # Files.
    def open(self, path: str, flags: int) -> int: ...
    def close(self, fd: int) -> None: ...
    def dup(self, fd: int) -> int: ...
    def read(self, fd: int, size: int) -> bytes: ...
    def write(self, fd: int, data: bytes) -> int: ...
    def pread(self, fd: int, size: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0, /) -> int: ...
    def listdir(self, path: str) -> list[str]: ...
    def readlink(self, path: str) -> str: ...
    def owner(self, path: str) -> tuple[int, int]:
        """User and group, by number. stat(2)."""

    def chown(self, path: str, user: int, group: int) -> None:
        """-1 leaves one of them as it is."""

    # Memory.
    def mmap(
        self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0
    ) -> int: ...
    def munmap(self, address: int, length: int) -> None: ...
    def madvise(self, address: int, length: int, advice: int) -> None: ...
    def mincore(self, address: int, length: int) -> bytes: ...
    def mlock(self, address: int, length: int) -> None: ...
    def munlock(self, address: int, length: int) -> None: ...
    def memfd_create(self, name: str, flags: int) -> int: ...
    def ftruncate(self, fd: int, length: int) -> None: ...
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None: ...

    # Device registers in mapped memory.
    def load(self, address: int, width: int) -> int:
        """Read width bytes (1, 2, 4 or 8) at address with one access."""

    def store(self, address: int, width: int, value: int) -> None:
        """Write width bytes (1, 2, 4 or 8) at address with one access."""

    # Events.
    def eventfd(self, initial: int, flags: int) -> int: ...
    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        """Wait until one of fds is readable; return those that are, or none after timeout seconds.

        timeout: as Deadline takes it: None or infinity to wait for ever, zero or less not to wait.
        """


# poll(2) takes its milliseconds as an int: 24 days.
_LONGEST_POLL = 1 << 20
"""How many seconds one system call waits at most."""


class _Ioctl(Protocol):
    def __call__(self, fd: int, request: int, argument: IoctlArgument = 0, /) -> int: ...


class LinuxKernel:
    """The running Linux kernel. Holds no state: a program can have any number of them, and use one in any thread."""

    def __init__(self) -> None:
        # Not wrapped in a method: plugging memory makes an ioctl for each block, and a frame is a tenth of its cost.
        self.ioctl = cast(_Ioctl, fcntl.ioctl)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
        ]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._libc.mlock.argtypes = self._libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    @property
    def name(self) -> str:
        return "real"

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def dup(self, fd: int) -> int:
        return os.dup(fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def owner(self, path: str) -> tuple[int, int]:
        status = Path(path).stat()
        return status.st_uid, status.st_gid

    def chown(self, path: str, user: int, group: int) -> None:
        os.chown(path, user, group)

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        # Huge page sizes are encoded up to bit 31: ctypes takes the int as 32 bits, whatever its sign.
        result = self._libc.mmap(address or None, length, protection, flags, fd, offset)
        if result is None or result == ctypes.c_void_p(-1).value:
            raise self._error()
        return int(result)

    def munmap(self, address: int, length: int) -> None:
        self._check(self._libc.munmap(address, length))

    def madvise(self, address: int, length: int, advice: int) -> None:
        self._check(self._libc.madvise(address, length, advice))

    def mincore(self, address: int, length: int) -> bytes:
        residency = ctypes.create_string_buffer(-(-length // os.sysconf("SC_PAGE_SIZE")))
        self._check(self._libc.mincore(address, length, residency))
        return residency.raw

    def mlock(self, address: int, length: int) -> None:
        self._check(self._libc.mlock(address, length))

    def munlock(self, address: int, length: int) -> None:
        self._check(self._libc.munlock(address, length))

    def memfd_create(self, name: str, flags: int) -> int:
        return os.memfd_create(name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._check(self._libc.fallocate(fd, mode, offset, length))

    def load(self, address: int, width: int) -> int:
        return int(_REGISTER[width].from_address(address).value)

    def store(self, address: int, width: int, value: int) -> None:
        _REGISTER[width].from_address(address).value = value

    def eventfd(self, initial: int, flags: int) -> int:
        return os.eventfd(initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        deadline = Deadline(timeout)
        while True:
            left = deadline.left
            ready = poller.poll(None if left is None else min(left, _LONGEST_POLL) * 1000)
            if ready or deadline.has_passed:
                return [fd for fd, _ in ready]

    def _check(self, result: int) -> None:
        if result != 0:
            raise self._error()

    @staticmethod
    def _error() -> OSError:
        code = ctypes.get_errno() or errno.EIO
        return OSError(code, os.strerror(code))


# ctypes moves a simple type of these widths in one load or store; slices of a buffer would move bytes.
_REGISTER: dict[int, type[ctypes.c_uint8 | ctypes.c_uint16 | ctypes.c_uint32 | ctypes.c_uint64]] = {
    1: ctypes.c_uint8,
    2: ctypes.c_uint16,
    4: ctypes.c_uint32,
    8: ctypes.c_uint64,
}
