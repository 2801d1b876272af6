"""The containers of devices without an IOMMU. Source: drivers/vfio/container.c, vfio_noiommu_ops."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from pyvfio.sim.machine import IommuGroup
from pyvfio.sim.mm import PageTracker, Pin
from pyvfio.sim.process import Process, UserMemory, fail
from pyvfio.sim.vfio.mappings import DmaMapping, Part


@dataclass(frozen=True, slots=True)
class _Physical:
    """Memory that is reached without a translation."""

    pin: Pin | None


def reach_physical(memory: PageTracker, address: int, size: int, _flag: int) -> Sequence[Part] | None:
    """The memory that a device without an IOMMU reaches at an address. The PageTracker says where memory lies.

    None where there is no memory; a real machine would not notice.
    """
    pin = memory.reach(address, size)
    return None if pin is None else [(_Physical(pin), 0, size)]


class NoIommu:
    """It refuses every ioctl, and lets devices reach all of physical memory."""

    def __init__(self, memory: PageTracker) -> None:
        self._memory = memory

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        return ()

    def ioctl(self, _request: int, _user: UserMemory) -> int:
        raise fail(errno.ENOTTY)

    def has_extension(self, _extension: int) -> bool:
        return False

    def attach(self, _group: IommuGroup, _process: Process) -> None:
        """Nothing to put it behind."""

    def detach(self, _group: IommuGroup) -> None:
        """Nothing to take back."""

    def translate(self, address: int, size: int, flag: int) -> Sequence[Part] | None:
        return reach_physical(self._memory, address, size, flag)
