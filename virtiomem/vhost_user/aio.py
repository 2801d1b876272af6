"""Aio: several reads and writes by one system call, of which a process that is killed has done all or none.

The kernel does each at once where it is submitted, if it is of a socket that does not wait; and a process that is
killed dies when it returns from the call. That holds for sockets, and for the eventfd that is signalled at the end of
an operation. It does not for writes to files: a kill that is pending ends those with EINTR.
Source: io_submit(2); fs/aio.c, aio_read and aio_write.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from virtiomem.vhost_user.abi.aio_abi import io_event, iocb

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


class Aio(Resource):
    """A context for so many operations at a time. One thread uses it."""

    def __init__(self, most: int) -> None:
        """Raises VfioError if Linux has no asynchronous reads, or none are left."""
        try:
            self._setup, self._destroy, self._submit, self._getevents = _NUMBERS[platform.machine()]
        except KeyError:
            raise _unavailable(errno.ENOSYS) from None
        self._most = most
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        if self._libc.syscall(self._setup, most, ctypes.byref(self._context)) < 0:
            raise _unavailable(ctypes.get_errno())
        self._events = (io_event * most)()
        super().__init__()

    def submit(self, operations: Sequence[iocb]) -> list[int]:
        """Do operations in their order; return what each of those gave that the kernel took, a negative errno for a
        failure. It takes none after one that makes no sense: raises OSError if that is the first.

        The caller keeps the buffers meanwhile.
        """
        self.require_open()
        count = len(operations)
        pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, operations))
        for number, operation in enumerate(operations):
            operation.aio_data = number
        submitted = self._libc.syscall(self._submit, self._context, ctypes.c_long(count), pointers)
        code = ctypes.get_errno()
        taken = max(submitted, 0)
        done = self._libc.syscall(
            self._getevents, self._context, ctypes.c_long(0), ctypes.c_long(self._most), self._events, None
        )
        if submitted < 0:
            raise OSError(code, os.strerror(code))
        results = [-errno.EINPROGRESS] * taken
        for event in self._events[: max(done, 0)]:
            results[event.data] = event.res
        return results

    def _release(self) -> None:
        # A forked child has no context: it is one of the parent's address space.
        if not self._inherited:
            self._libc.syscall(self._destroy, self._context)

    def __repr__(self) -> str:
        return f"<Aio {self._most}>"


def operation(
    opcode: int, fd: int, data: ctypes.Array[ctypes.c_char], offset: int = 0, size: int | None = None
) -> iocb:
    """An operation on fd: opcode, an IOCB_CMD_*, with size bytes of data (default: all), at offset of a file."""
    return iocb(
        aio_lio_opcode=opcode,
        aio_fildes=fd,
        aio_buf=ctypes.addressof(data),
        aio_nbytes=len(data) if size is None else size,
        aio_offset=offset,
    )


def _unavailable(code: int) -> VfioError:
    return VfioError(
        code,
        "io_setup",
        meaning="guests cannot be called without asynchronous reads of Linux",
        advice="The kernel needs CONFIG_AIO and room below fs.aio-max-nr; a sandbox must allow io_setup and io_submit",
    )
