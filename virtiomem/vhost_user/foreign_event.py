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

from pyvfio.kernel import Kernel
from pyvfio.resource import Resource
from virtiomem.vhost_user.abi.aio_abi import IOCB_CMD_PREAD, IOCB_FLAG_RESFD
from virtiomem.vhost_user.aio import Aio, operation
from virtiomem.vhost_user.errors import FrontEndError


class Signals(Resource):
    """Signals eventfds of others, without ever waiting for them. One is enough for any number; one thread uses it."""

    def __init__(self, kernel: Kernel) -> None:
        """kernel: the one that makes the file that is read. Raises VfioError if Linux has no asynchronous reads."""
        self._kernel = kernel
        self._aio = Aio(1)
        # A byte of an empty file of our own: there is nothing that its reader could wait for.
        try:
            self._file = kernel.memfd_create("signal", os.MFD_CLOEXEC)
        except BaseException:
            self._aio.close()
            raise
        self._byte = ctypes.create_string_buffer(1)
        self._read = operation(IOCB_CMD_PREAD, self._file, self._byte)
        self._read.aio_flags = IOCB_FLAG_RESFD
        super().__init__()

    def signal(self, fd: int) -> None:
        """Add one to the counter of the eventfd fd, unless it is full: whoever reads it will look then, too.

        Raises OSError if fd is no eventfd.
        """
        self.require_open()
        self._read.aio_resfd = fd
        self._aio.submit([self._read])

    def _release(self) -> None:
        self._kernel.close(self._file)
        self._aio.close()

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
