"""Who owns the DMA of a group. Source: drivers/iommu/iommu.c, iommu_device_claim_dma_owner."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from pyvfio.sim.devices import PciFunction
from pyvfio.sim.process import fail
from pyvfio.sim.sysfs import Sysfs


class DmaOwners:
    """The owners of the groups of one machine. A group has one owner, who may claim several devices of it."""

    def __init__(self, functions: Mapping[str, PciFunction], sysfs: Sysfs, asks_firmware: Callable[[], bool]) -> None:
        """asks_firmware: whether a claim fails for a group that firmware claims memory for, as from Linux 6.6 on."""
        self._functions = functions
        self._sysfs = sysfs
        self._asks_firmware = asks_firmware
        # By the number of the group: its owner, and how many of its devices the owner has claimed.
        self._claims: dict[int, tuple[object, int]] = {}

    def claim(self, address: str, owner: object) -> None:
        """Raises OSError: EPERM if another owner, or a host driver, has a device of the group; EINVAL if firmware
        claims memory for it."""
        number = self._functions[address].group
        holder, count = self._claims.get(number, (owner, 0))
        if holder is not owner or not self._sysfs.viable(number):
            raise fail(errno.EPERM)
        if self._asks_firmware() and self._sysfs.is_claimed_by_firmware(number):
            raise fail(errno.EINVAL)
        self._claims[number] = (owner, count + 1)

    def disclaim(self, address: str) -> None:
        """The owner gives up one device of the group."""
        number = self._functions[address].group
        owner, count = self._claims.pop(number)
        if count > 1:
            self._claims[number] = (owner, count - 1)
