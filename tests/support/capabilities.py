"""Capabilities of this process, or of the program on a simulated kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Kernel
from pyvfio.sim import SimKernel

CAP_IPC_LOCK = 14
CAP_SYS_RAWIO = 17

_CAPABILITY_VERSION_3 = 0x2008_0522


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


@contextmanager
def without_raw_io(kernel: Kernel) -> Iterator[None]:
    """No CAP_SYS_RAWIO meanwhile."""

    def set_raw_io(wanted: bool) -> None:
        if isinstance(kernel, SimKernel):
            kernel.process.raw_io = wanted
        else:
            set_effective(CAP_SYS_RAWIO, wanted)

    set_raw_io(False)
    try:
        yield
    finally:
        set_raw_io(True)
