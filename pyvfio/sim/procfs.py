"""Files of /proc/self that tell of locked memory, as the running kernel's with the simulated figures in them."""

from __future__ import annotations

import os
import re

from pyvfio.kernel import LinuxKernel
from pyvfio.sim.process.charges import Charges

_CAP_IPC_LOCK = 1 << 14
_CAP_SYS_RAWIO = 1 << 17


def status(real: LinuxKernel, charges: Charges, *, raw_io: bool) -> bytes:
    """/proc/self/status."""
    capabilities = (_CAP_IPC_LOCK if charges.exempt else 0) | (_CAP_SYS_RAWIO if raw_io else 0)
    text = _text(real, "/proc/self/status")
    text = re.sub(r"VmLck:.*", f"VmLck:\t{charges.locked_in_all >> 10:8} kB", text)
    text = re.sub(r"VmPin:.*", f"VmPin:\t{charges.pinned >> 10:8} kB", text)
    return re.sub(r"CapEff:.*", f"CapEff:\t{capabilities:016x}", text).encode()


def limits(real: LinuxKernel, charges: Charges) -> bytes:
    """/proc/self/limits."""
    limit = "unlimited" if charges.limit is None else str(charges.limit)
    line = f"Max locked memory         {limit:<20} {limit:<20} bytes"
    return re.sub(r"Max locked memory.*", line, _text(real, "/proc/self/limits")).encode()


def locked_by_program(real: LinuxKernel) -> int:
    """Bytes that the process has locked on the running kernel."""
    found = re.search(r"VmLck:\s*(\d+)", _text(real, "/proc/self/status"))
    return int(found[1]) << 10 if found else 0


def _text(real: LinuxKernel, path: str) -> str:
    fd = real.open(path, os.O_RDONLY)
    try:
        return real.read(fd, 65536).decode()
    finally:
        real.close(fd)
