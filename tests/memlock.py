"""A limit on locked memory, for this process or for a simulated one."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Kernel
from pyvfio.limits import memlock
from pyvfio.sim import SimKernel

CAP_IPC_LOCK = 14

_CAPABILITY_VERSION_3 = 0x2008_0522


@contextmanager
def memlock_limited(kernel: Kernel, room: int) -> Iterator[None]:
    """RLIMIT_MEMLOCK so that there is room for that many bytes more, and no CAP_IPC_LOCK to pass it."""
    size = memlock(kernel).charged + room
    if isinstance(kernel, SimKernel):
        before = kernel.charges.limit, kernel.charges.exempt
        kernel.charges.limit, kernel.charges.exempt = size, False
        try:
            yield
        finally:
            kernel.charges.limit, kernel.charges.exempt = before
        return
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, max(size, limits[1])))
    set_effective(CAP_IPC_LOCK, False)
    try:
        yield
    finally:
        set_effective(CAP_IPC_LOCK, True)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def set_effective(capability: int, wanted: bool) -> None:
    """Whether this process has a capability of its permitted ones in effect. Source: capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, first their lower halves, then the upper ones.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] = sets[0] | 1 << capability if wanted else sets[0] & ~(1 << capability)
    if libc.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")
