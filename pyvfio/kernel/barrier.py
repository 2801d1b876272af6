"""memory_barrier: what a program wrote and read before it is before what it writes and reads after it."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
import threading
from collections.abc import Callable
from typing import Final

from pyvfio.errors import VfioError

_X86: Final = frozenset({"x86_64", "AMD64", "i386", "i486", "i586", "i686"})

# The barrier that Linux calls mb(), followed by a return: arch/*/include/asm/barrier.h.
_CODE: Final = {
    "aarch64": bytes.fromhex("9f3f03d5 c0035fd6"),  # dsb sy; ret
    "riscv64": bytes.fromhex("0f00f00f 67800000"),  # fence iorw, iorw; ret
    "ppc64le": bytes.fromhex("ac04007c 2000804e"),  # sync; blr
    "s390x": bytes.fromhex("07f0 07fe"),  # bcr 15, 0; br %r14
    "loongarch64": bytes.fromhex("00007238 2000004c"),  # dbar 0; ret
    "x86_64": bytes.fromhex("0faef0 c3"),  # mfence; ret
}

is_strongly_ordered: Final = platform.machine() in _X86
"""Whether loads are made in the program's order, and stores are too, to memory and to registers: only a load may be
made before an earlier store. Source: Intel SDM, volume 3A, "Memory Ordering"; AMD64 APM, volume 2, 7.2."""


def memory_barrier() -> None:
    """Make every access of this thread before the call before every access after it, for memory and for registers, as
    devices and other processors see them.

    Raises VfioError (ENOSYS) for a processor whose barrier is not known here, and where code cannot be mapped to issue
    it.
    """
    if is_strongly_ordered:
        # Taking a lock that nobody has is a locked instruction, which no access passes (Intel SDM, volume 3A, "Memory
        # Ordering"). A new one: nobody ever waits here.
        threading.Lock().acquire()
    else:
        barrier_instruction(platform.machine())()


@functools.cache
def has_memory_barrier() -> bool:
    """Whether memory_barrier() works here."""
    try:
        memory_barrier()
    except VfioError:
        return False
    return True


@functools.cache
def barrier_instruction(machine: str) -> Callable[[], None]:
    """A C function that is a processor's barrier and nothing else.

    Nothing else that CPython or libc has will do: the atomics of a lock order what processors of one inner shareable
    domain see, and one way only (Arm ARM, B2.3); membarrier(2) returns at once in a process of one thread, as "system
    call entry is not a mb" (kernel/sched/membarrier.c, membarrier_private_expedited).
    """
    code = _CODE.get(machine)
    if code is None:
        raise VfioError(errno.ENOSYS, "memory barrier", meaning=f"the barrier of a {machine} processor is not known")
    # A file: its page is never writable and executable at once, and the kernel flushes the instruction cache for it.
    fd = os.memfd_create("memory barrier")
    try:
        os.write(fd, code)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if address == ctypes.c_void_p(-1).value:
        meaning = f"this process may map no code: {os.strerror(ctypes.get_errno())}"
        raise VfioError(errno.ENOSYS, "memory barrier", meaning=meaning)
    return ctypes.PYFUNCTYPE(None)(address)
