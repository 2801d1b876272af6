"""Devices without an IOMMU: their containers, and what iommufd makes of them.

Source: drivers/vfio/container.c, vfio_noiommu_ops; drivers/iommu/iommufd/hwpt_noiommu.c.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.sim.process.user import UserMemory, fail
from pyvfio.sim.vfio.mappings import DmaMapping

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.mm.pin import Pin
    from pyvfio.sim.process.process import Process
    from pyvfio.sim.vfio.device import Part
    from pyvfio.sim.vfio.group import GroupState

_PAGE = 4096
_PRESENT = 1 << 63


@dataclass(frozen=True, slots=True)
class _Physical:
    """Memory that nothing translates to."""

    pin: Pin | None


def reach_physical(kernel: SimKernel, address: int, size: int, _flag: int) -> Sequence[Part] | None:
    """What a device reaches that is told a physical address: memory as the PageTracker gives addresses to it.

    None where there is no memory, which no real machine would be told of.
    """
    pin = kernel.pinning.physical(address, size)
    return None if pin is None else [(_Physical(pin), 0, size)]


class NoIommu:
    """Refuses everything, and lets devices reach all of physical memory."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        return ()

    def ioctl(self, _request: int, _user: UserMemory) -> int:
        raise fail(errno.ENOTTY)

    def has_extension(self, _extension: int) -> bool:
        return False

    def attach(self, _group: GroupState, _process: Process) -> None:
        """Nothing to put it behind."""

    def detach(self, _group: GroupState) -> None:
        """Nothing to take back."""

    def translate(self, address: int, size: int, flag: int) -> Sequence[Part] | None:
        return reach_physical(self._kernel, address, size, flag)


class Pagemap:
    """/proc/self/pagemap of a machine with devices without an IOMMU."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def pread(self, size: int, offset: int) -> bytes:
        pages = range(offset // 8, (offset + size) // 8)
        return b"".join(struct.pack("=Q", self._entry(page)) for page in pages)

    def _entry(self, page: int) -> int:
        try:
            is_there = self._kernel.mincore(page * _PAGE, _PAGE)[0] & 1
        except OSError:
            return 0
        return _PRESENT | self._kernel.pinning.physical_address(page * _PAGE) // _PAGE if is_there else 0

    def ioctl(self, _request: int, _user: UserMemory) -> int:
        raise fail(errno.ENOTTY)
