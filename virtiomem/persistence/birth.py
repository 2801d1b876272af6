"""When a file was made: what tells it from a later one that has got its number."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

_WITHOUT_A_NAME: Final = 0x1000
_BIRTH: Final = 0x800
_SIZE: Final = 256
_MASK: Final = struct.Struct("=I")
_TIME: Final = struct.Struct("=qI")
_PLACE: Final = 80
"""Bytes from the start of the answer to the birth's seconds and nanoseconds. Source: statx(2), linux/stat.h."""


def birth(fd: int) -> int:
    """Nanoseconds from the epoch to when the file of fd was made; 0 if its file system, or the libc, does not tell."""
    statx = getattr(ctypes.CDLL(None), "statx", None)
    answer = ctypes.create_string_buffer(_SIZE)
    if statx is None or statx(fd, b"", _WITHOUT_A_NAME, ctypes.c_uint(_BIRTH), answer) != 0:
        return 0
    if not _MASK.unpack_from(answer)[0] & _BIRTH:
        return 0
    seconds, nanoseconds = _TIME.unpack_from(answer, _PLACE)
    return int(seconds * 1_000_000_000 + nanoseconds)
