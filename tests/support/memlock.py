"""A limit on locked memory, for this process or for a simulated one."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Kernel
from pyvfio.kernel import memlock
from pyvfio.sim import SimKernel
from tests.support.capabilities import CAP_IPC_LOCK, set_effective


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
