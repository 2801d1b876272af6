"""Whether two descriptors are of one open file: what is done to the one is done to the other."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
from typing import Final

# fcntl's F_DUPFD_QUERY, from Linux 6.10 on. Source: linux/fcntl.h.
_DUPFD_QUERY: Final = 1027
# kcmp, if the kernel was built with it. Source: asm/unistd.h of each architecture; kcmp(2), KCMP_FILE is 0.
_GENERIC: Final = 272
_NUMBERS: Final = {"x86_64": 312, "aarch64": _GENERIC, "riscv64": _GENERIC, "ppc64le": 354, "s390x": 343}


def is_same_file(left: int, right: int) -> bool:
    """Whether left and right are copies of one descriptor: not two descriptors of one file.

    False where the kernel does not tell.
    """
    if not os.path.sameopenfile(left, right):
        return False
    try:
        return fcntl.fcntl(left, _DUPFD_QUERY, right) == 1
    except OSError:
        libc = ctypes.CDLL(None, use_errno=True)
        number, process = _NUMBERS.get(platform.machine(), _GENERIC), os.getpid()
        result = libc.syscall(number, process, process, 0, ctypes.c_ulong(left), ctypes.c_ulong(right))
        return bool(result == 0)
