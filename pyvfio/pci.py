"""PCI config space of a device."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.abi import pci_regs
from pyvfio.errors import VfioError
from pyvfio.region import Region


@dataclass(frozen=True, slots=True)
class PciCapability:
    """A capability in the list at PCI_CAPABILITY_LIST: its PCI_CAP_ID and its offset in config space."""

    id: int
    offset: int


class ConfigSpace:
    """Registers of config space, named as in linux/pci_regs.h. Lives as long as its device."""

    def __init__(self, region: Region) -> None:
        self.region = region

    @property
    def vendor_id(self) -> int:
        return self.region.read16(pci_regs.PCI_VENDOR_ID)

    @property
    def device_id(self) -> int:
        return self.region.read16(pci_regs.PCI_DEVICE_ID)

    @property
    def command(self) -> int:
        return self.region.read16(pci_regs.PCI_COMMAND)

    @command.setter
    def command(self, value: int) -> None:
        self.region.write16(pci_regs.PCI_COMMAND, value)

    @property
    def bus_master(self) -> bool:
        """Whether the device may do DMA."""
        return bool(self.command & pci_regs.PCI_COMMAND_MASTER)

    def enable_bus_master(self) -> None:
        """Let the device do DMA, and answer at its BARs. Off after open and after every reset."""
        self.command |= pci_regs.PCI_COMMAND_MASTER | pci_regs.PCI_COMMAND_MEMORY

    def disable_bus_master(self) -> None:
        self.command &= ~pci_regs.PCI_COMMAND_MASTER & 0xFFFF

    def capabilities(self) -> Iterator[PciCapability]:
        """The capability list. Raises VfioError where it runs in a circle."""
        if not self.region.read16(pci_regs.PCI_STATUS) & pci_regs.PCI_STATUS_CAP_LIST:
            return
        offset = self.region.read8(pci_regs.PCI_CAPABILITY_LIST) & ~3
        seen: set[int] = set()
        while offset:
            if offset in seen or offset < pci_regs.PCI_STD_HEADER_SIZEOF:
                raise VfioError(errno.EIO, "PCI capability list", {"offset": offset}, "it is damaged")
            seen.add(offset)
            yield PciCapability(self.region.read8(offset), offset)
            offset = self.region.read8(offset + pci_regs.PCI_CAP_LIST_NEXT) & ~3
