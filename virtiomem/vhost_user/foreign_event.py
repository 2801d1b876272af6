"""Eventfds that a front end has sent, and the signal that reaches one whatever the front end has done to it.

The front end has the same file description as we. It can clear O_NONBLOCK at any moment and fill the counter, and a
write() of ours would wait until it reads; or empty it between our poll() and our read(). So there is no write(): the
kernel itself signals the eventfd, as it does at the end of an asynchronous read, which never waits. And what is read is
read with RWF_NOWAIT. Source: io_submit(2), IOCB_FLAG_RESFD; readv(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel
from pyvfio.resource import Resource
from virtiomem.vhost_user.abi.aio_abi import IOCB_CMD_PREAD, IOCB_FLAG_RESFD, iocb
from virtiomem.vhost_user.errors import FrontEndError

# io_setup, io_destroy, io_submit, io_getevents. Source: asm/unistd.h of each architecture.
_GENERIC: Final = (0, 1, 2, 4)
_NUMBERS: Final = {
    "x86_64": (206, 207, 209, 208),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (227, 228, 230, 229),
    "s390x": (243, 244, 246, 245),
}


class Signals(Resource):
    """Signals eventfds of others, without ever waiting for them. One is enough for any number; one thread uses it."""

    def __init__(self, kernel: Kernel) -> None:
        """kernel: the one that makes the file that is read. Raises VfioError if Linux has no asynchronous reads."""
        try:
            self._setup, self._destroy, self._submit, self._getevents = _NUMBERS[platform.machine()]
        except KeyError:
            raise _unavailable(errno.ENOSYS) from None
        self._kernel = kernel
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        if self._libc.syscall(self._setup, 1, ctypes.byref(self._context)) < 0:
            raise _unavailable(ctypes.get_errno())
        # A byte of an empty file of our own: there is nothing that its reader could wait for.
        try:
            self._file = kernel.memfd_create("signal", os.MFD_CLOEXEC)
        except BaseException:
            self._libc.syscall(self._destroy, self._context)
            raise
        self._byte = ctypes.create_string_buffer(1)
        self._events = ctypes.create_string_buffer(32)
        self._iocb = iocb(
            aio_lio_opcode=IOCB_CMD_PREAD,
            aio_fildes=self._file,
            aio_buf=ctypes.addressof(self._byte),
            aio_nbytes=1,
            aio_flags=IOCB_FLAG_RESFD,
        )
        self._list = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        super().__init__()

    def signal(self, fd: int) -> None:
        """Add one to the counter of the eventfd fd, unless it is full: whoever reads it will look then, too.

        Raises OSError if fd is no eventfd.
        """
        self.require_open()
        self._iocb.aio_resfd = fd
        submitted = self._libc.syscall(self._submit, self._context, ctypes.c_long(1), self._list)
        code = ctypes.get_errno()
        # Of the read nothing is wanted but room for the next one.
        self._libc.syscall(self._getevents, self._context, ctypes.c_long(0), ctypes.c_long(1), self._events, None)
        if submitted < 0:
            raise OSError(code, os.strerror(code))

    def _release(self) -> None:
        self._kernel.close(self._file)
        # A forked child has no context: it is one of the parent's address space.
        if not self._inherited:
            self._libc.syscall(self._destroy, self._context)

    def __repr__(self) -> str:
        return "<Signals>"


class ForeignEvent:
    """An eventfd of the front end's, which belongs to this object. No use of it waits, whatever the front end does."""

    def __init__(self, fd: int, signals: Signals) -> None:
        """Take fd over. signals: what signals it. Raises FrontEndError if fd is no eventfd; it is closed then."""
        self._fd = fd
        self._signals = signals
        try:
            is_eventfd = os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
        except OSError as error:
            os.close(fd)
            raise _no_eventfd(error.errno or errno.EIO) from error
        if not is_eventfd:
            os.close(fd)
            raise _no_eventfd(errno.EINVAL)

    def fileno(self) -> int:
        """The descriptor, which is readable when the event has been signalled."""
        return self._fd

    def take(self) -> None:
        """Make it unreadable until it is signalled again. Raises FrontEndError."""
        try:
            os.preadv(self._fd, [bytearray(8)], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            # The front end was faster.
            return
        except OSError as error:
            raise _no_eventfd(error.errno or errno.EIO) from error

    def signal(self) -> None:
        """Signal it. Raises FrontEndError."""
        try:
            self._signals.signal(self._fd)
        except OSError as error:
            raise _no_eventfd(error.errno or errno.EIO) from error

    def close(self) -> None:
        """Close the descriptor. Called once."""
        os.close(self._fd)


def _no_eventfd(code: int) -> FrontEndError:
    return FrontEndError(code, "vhost-user ring", meaning="one of its descriptors is no eventfd")


def _unavailable(code: int) -> VfioError:
    return VfioError(
        code,
        "io_setup",
        meaning="guests cannot be called without asynchronous reads of Linux",
        advice="The kernel needs CONFIG_AIO and room below fs.aio-max-nr; a sandbox must allow io_setup and io_submit",
    )
