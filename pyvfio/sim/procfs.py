"""Files of /proc that tell of memory and capabilities: the running kernel's, with the simulated figures in them."""

from __future__ import annotations

import os
import re
import struct

from pyvfio.abi.tainted import TAINTED
from pyvfio.kernel import LinuxKernel
from pyvfio.sim.machine import Machine
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import Charges, File, Process, Text

_CAP_IPC_LOCK = 1 << 14
_CAP_SYS_RAWIO = 1 << 17


_PRESENT = 1 << 63


def open_proc(machine: Machine, process: Process, path: str) -> File | None:
    """What process gets that opens a path; None if it is the running kernel's."""
    match path:
        case "/proc/self/status":
            return Text(_status(machine.real, process))
        case "/proc/self/limits":
            return Text(_limits(machine.real, process.charges))
        case "/proc/self/pagemap" if any(map(machine.lacks_iommu, machine.functions)):
            return Pagemap(machine)
        case "/proc/sys/kernel/osrelease":
            return Text(b"%d.%d.0-simulated\n" % machine.version)
        case _ if path == TAINTED:
            return Text(f"{machine.sysfs.tainted}\n".encode())
        case _:
            return None


class Pagemap(File):
    """/proc/self/pagemap of a machine with devices without an IOMMU: an entry of 8 bytes for each page."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def pread(self, size: int, offset: int) -> bytes:
        pages = range(offset // 8, (offset + size) // 8)
        return b"".join(struct.pack("=Q", self._entry(page)) for page in pages)

    def _entry(self, page: int) -> int:
        try:
            is_there = self._machine.real.mincore(page * PAGE, PAGE)[0] & 1
        except OSError:
            return 0
        return _PRESENT | self._machine.pages.physical_of(page * PAGE) // PAGE if is_there else 0


def _status(real: LinuxKernel, process: Process) -> bytes:
    charges = process.charges
    capabilities = (_CAP_IPC_LOCK if charges.exempt else 0) | (_CAP_SYS_RAWIO if process.raw_io else 0)
    text = _text(real, "/proc/self/status")
    text = re.sub(r"VmLck:.*", f"VmLck:\t{charges.locked_in_all >> 10:8} kB", text)
    text = re.sub(r"VmPin:.*", f"VmPin:\t{charges.pinned >> 10:8} kB", text)
    return re.sub(r"CapEff:.*", f"CapEff:\t{capabilities:016x}", text).encode()


def _limits(real: LinuxKernel, charges: Charges) -> bytes:
    limit = "unlimited" if charges.limit is None else str(charges.limit)
    line = f"Max locked memory         {limit:<20} {limit:<20} bytes"
    return re.sub(r"Max locked memory.*", line, _text(real, "/proc/self/limits")).encode()


def locked_by_program(real: LinuxKernel) -> int:
    """How many bytes this process has locked with mlock()."""
    found = re.search(r"VmLck:\s*(\d+)", _text(real, "/proc/self/status"))
    return int(found[1]) << 10 if found else 0


def _text(real: LinuxKernel, path: str) -> str:
    fd = real.open(path, os.O_RDONLY)
    try:
        return real.read(fd, 65536).decode()
    finally:
        real.close(fd)
