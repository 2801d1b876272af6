"""Whether two descriptors are of one open file: what is done to the one is done to the other."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

from pyvfio.errors import VfioError

# kcmp. Source: asm/unistd.h of each architecture; kcmp(2), KCMP_FILE is 0.
_GENERIC: Final = 272
_NUMBERS: Final = {"x86_64": 312, "aarch64": _GENERIC, "riscv64": _GENERIC, "ppc64le": 354, "s390x": 343}


def is_same_file(left: int, right: int) -> bool:
    """Whether left and right are copies of one descriptor: not two descriptors of one file.

    Raises VfioError where the kernel does not tell.
    """
    if not os.path.sameopenfile(left, right):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    number = _NUMBERS.get(platform.machine(), _GENERIC)
    process = os.getpid()
    result = libc.syscall(number, process, process, 0, ctypes.c_ulong(left), ctypes.c_ulong(right))
    if result < 0:
        code = ctypes.get_errno()
        meaning = "the kernel does not compare descriptors" if code == errno.ENOSYS else ""
        raise VfioError(code, "compare descriptors", meaning=meaning)
    return bool(result == 0)
