"""linux/aio_abi.h: what asynchronous reads and writes are asked with."""

import ctypes
from typing import Annotated

from pyvfio.abi.types import s32, struct, u16, u32, u64

s16 = Annotated[int, ctypes.c_int16]
s64 = Annotated[int, ctypes.c_int64]

IOCB_CMD_PREAD = 0
IOCB_CMD_PWRITE = 1
IOCB_FLAG_RESFD = 1 << 0


@struct
class iocb(ctypes.Structure):
    """linux/aio_abi.h. Which of aio_key and aio_rw_flags comes first depends on the byte order: this is little-endian.

    aio_resfd: the eventfd that is signalled at the end, with IOCB_FLAG_RESFD.
    """

    aio_data: u64
    aio_key: u32
    aio_rw_flags: s32
    aio_lio_opcode: u16
    aio_reqprio: s16
    aio_fildes: u32
    aio_buf: u64
    aio_nbytes: u64
    aio_offset: s64
    aio_reserved2: u64
    aio_flags: u32
    aio_resfd: u32


@struct
class io_event(ctypes.Structure):
    """linux/aio_abi.h. data: the iocb's aio_data. res: bytes, or a negative errno."""

    data: u64
    obj: u64
    res: s64
    res2: s64
