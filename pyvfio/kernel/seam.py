"""Kernel: what every system call of pyvfio and virtiomem goes through.

LinuxKernel makes the call. A simulated kernel (pyvfio.sim) answers it instead, and FaultyKernel (pyvfio.faults) makes
one fail. All raise plain OSError with the kernel's errno; the layer that knows what was attempted explains it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path
from stat import S_ISBLK, S_ISCHR
from typing import Any, Protocol

from pyvfio.abi import vfio
from pyvfio.kernel.timeouts import Deadline
from pyvfio.kernel.window import LinuxWindow, Window

IoctlArgument = int | ctypes.Structure | ctypes.Array[ctypes.c_char] | ctypes.c_int32
"""What an ioctl takes: a number, or an object that the call reads and writes in place."""


class Kernel(Protocol):
    """The system calls that the libraries make. Sizes, offsets and addresses are bytes; descriptors are ints.

    Each method is the system call of its name, and raises OSError with its errno. Then nothing has changed, unless the
    documentation of the system call says otherwise. What a signal handler raises may come after the call was made; a
    new descriptor is closed then, as nobody else could.
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
    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0, /) -> int:
        """argument is read and written in place, whether the call succeeds or fails. Other threads run meanwhile."""

    def listdir(self, path: str) -> list[str]: ...
    def readlink(self, path: str) -> str: ...
    def owner(self, path: str) -> tuple[int, int]:
        """User and group, by number. stat(2)."""

    def device_number(self, path: str) -> str:
        """ "block 259:0" or "char 195:3" of a node, "" of any other file. stat(2), st_rdev."""

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
    def next_data(self, fd: int, offset: int) -> tuple[int, int] | None:
        """Where the next bytes of a file that are no hole begin, from offset on, and end; None if holes follow alone.

        lseek(2), SEEK_DATA and SEEK_HOLE.
        """

    def allocated(self, fd: int) -> int:
        """How many bytes a file takes. fstat(2), st_blocks."""

    def window(self, address: int, length: int, *, writable: bool = True) -> Window:
        """length bytes that are mapped at address, as numbers. Release it before they are unmapped.

        address is a multiple of 8. writable: whether they are mapped to be written.
        """

    # Events.
    def eventfd(self, initial: int, flags: int) -> int: ...
    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        """Wait until one of fds is readable; return those that are, or none after timeout seconds.

        timeout: as Deadline takes it: None or infinity to wait for ever, zero or less not to wait.
        """


_OPENING = (vfio.VFIO_GROUP_GET_DEVICE_FD, vfio.VFIO_DEVICE_GET_GFX_DMABUF)
"""The ioctls that return a new descriptor."""
# poll(2) takes its milliseconds as an int: 24 days.
_LONGEST_POLL = 1 << 20
"""How many seconds one system call waits at most."""


class LinuxKernel:
    """The running Linux kernel. Holds no state: a program can have any number of them, and use one in any thread."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # Without argtypes, which take longer than the rest of the call: a number is a C int, as requests and what an
        # ioctl takes by value are.
        self._ioctl = self._libc.ioctl
        # Where off_t has 32 bits, these have the 64 that the offset of a region needs.
        self._mmap = _first_of(self._libc, "mmap64", "mmap")
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [
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
        self._fallocate = _first_of(self._libc, "fallocate64", "fallocate")
        self._fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    @property
    def name(self) -> str:
        return "real"

    def open(self, path: str, flags: int) -> int:
        return _opened(os.open, path, flags | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def dup(self, fd: int) -> int:
        return _opened(os.dup, fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0, /) -> int:
        # Not fcntl.ioctl: it hands the kernel a copy of what has up to 1,024 bytes, and from Python 3.14 on brings it
        # back after a success only, while some calls fail and say how much room they need; and it holds the
        # interpreter's lock for what has more. A number it cuts to 32 bits, so that an address cannot be passed.
        passed = argument if isinstance(argument, int) else ctypes.byref(argument)
        result: int
        result = _opened(self._ioctl, fd, request, passed) if request in _OPENING else self._ioctl(fd, request, passed)
        if result < 0:
            raise self._error()
        return result

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def owner(self, path: str) -> tuple[int, int]:
        status = Path(path).stat()
        return status.st_uid, status.st_gid

    def device_number(self, path: str) -> str:
        status = Path(path).stat()
        kind = "block" if S_ISBLK(status.st_mode) else "char" if S_ISCHR(status.st_mode) else ""
        return f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if kind else ""

    def chown(self, path: str, user: int, group: int) -> None:
        os.chown(path, user, group)

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        # Huge page sizes are encoded up to bit 31: ctypes takes the int as 32 bits, whatever its sign.
        result = self._mmap(address or None, length, protection, flags, fd, offset)
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
        return _opened(os.memfd_create, name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._check(self._fallocate(fd, mode, offset, length))

    def next_data(self, fd: int, offset: int) -> tuple[int, int] | None:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            return start, os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            # There is none, or there was, a moment ago.
            if error.errno == errno.ENXIO:
                return None
            raise

    def allocated(self, fd: int) -> int:
        return int(os.fstat(fd).st_blocks) * 512

    def window(self, address: int, length: int, *, writable: bool = True) -> Window:
        return LinuxWindow(address, length, writable=writable)

    def eventfd(self, initial: int, flags: int) -> int:
        return _opened(os.eventfd, initial, flags)

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


def _opened(function: Callable[..., int], *arguments: object) -> int:
    """What function, which is C, returns: a new descriptor, or -1. If a signal handler raises by then, it is closed.

    It is in the list, which C fills, before a handler can run.
    """
    descriptors: list[int] = []
    try:
        descriptors.extend(map(function, *((argument,) for argument in arguments)))
    except BaseException:
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)
        raise
    return descriptors[0]


def _first_of(libc: ctypes.CDLL, *names: str) -> Any:
    """The first function of these names that a C library has."""
    return next(getattr(libc, name) for name in names if hasattr(libc, name))
