"""The capabilities of PCI config space: each one's registers by name. Offsets and bits are linux/pci_regs.h's."""

from __future__ import annotations

import re
from typing import ClassVar

from pyvfio.abi import pci_regs
from pyvfio.device.region import Region
from pyvfio.device.registers import Field, Register, Registers


class PciCapability(Registers):
    """One entry of a capability list. Offsets of its registers count from its header.

    id: a PCI_CAP_ID of the standard list, a PCI_EXT_CAP_ID of the extended one. version: extended ones have one.
    """

    ID: ClassVar[int | None] = None
    EXTENDED: ClassVar[bool] = False

    def __init__(self, region: Region, offset: int, number: int, version: int = 0, *, extended: bool = False) -> None:
        super().__init__(region, offset)
        self.offset = offset
        self.id = number
        self.version = version
        self.extended = extended

    @property
    def name(self) -> str:
        """As in linux/pci_regs.h, without the prefix: "MSIX", "SRIOV"; "0x7f" for what the header does not know."""
        return _NAMES.get((self.extended, self.id), f"{self.id:#x}")

    def __repr__(self) -> str:
        return f"<PciCapability {self.name} at {self.offset:#x}>"


class PowerManagement(PciCapability):
    """state: 0 for D0, where the device works, to 3 for D3hot, where its BARs do not answer."""

    ID = pci_regs.PCI_CAP_ID_PM
    control = Register(pci_regs.PCI_PM_CTRL, 16)
    state = Field(control, 0, 1)
    no_soft_reset = Field(control, 3)


class Msi(PciCapability):
    """vectors: how many the device has, as a power of two. The kernel programs the rest."""

    ID = pci_regs.PCI_CAP_ID_MSI
    flags = Register(pci_regs.PCI_MSI_FLAGS, 16)
    enabled = Field(flags, 0)
    vectors_log2 = Field(flags, 1, 3)
    is_64bit = Field(flags, 7)
    can_mask = Field(flags, 8)


class Msix(PciCapability):
    """Where the vector table and the pending bits are: BAR, and byte offset in it. The kernel programs the table."""

    ID = pci_regs.PCI_CAP_ID_MSIX
    flags = Register(pci_regs.PCI_MSIX_FLAGS, 16)
    enabled = Field(flags, 15)
    masked = Field(flags, 14)
    last_vector = Field(flags, 0, 10)
    table = Register(pci_regs.PCI_MSIX_TABLE, 32)
    table_bar = Field(table, 0, 2)
    pending = Register(pci_regs.PCI_MSIX_PBA, 32)
    pending_bar = Field(pending, 0, 2)

    @property
    def vectors(self) -> int:
        return self.last_vector + 1

    @property
    def table_offset(self) -> int:
        return self.table & pci_regs.PCI_MSIX_TABLE_OFFSET

    @property
    def pending_offset(self) -> int:
        return self.pending & pci_regs.PCI_MSIX_PBA_OFFSET


class PciExpress(PciCapability):
    """type: PCI_EXP_TYPE_*; link_width: lanes; link_speed: 1 for 2.5 GT/s, 2 for 5, 3 for 8, 4 for 16."""

    ID = pci_regs.PCI_CAP_ID_EXP
    flags = Register(pci_regs.PCI_EXP_FLAGS, 16)
    type = Field(flags, 4, 7)
    device_capabilities = Register(pci_regs.PCI_EXP_DEVCAP, 32)
    can_function_reset = Field(device_capabilities, 28)
    device_control = Register(pci_regs.PCI_EXP_DEVCTL, 16)
    max_payload_code = Field(device_control, 5, 7)
    max_read_request_code = Field(device_control, 12, 14)
    device_status = Register(pci_regs.PCI_EXP_DEVSTA, 16)
    transactions_pending = Field(device_status, 5)
    link_status = Register(pci_regs.PCI_EXP_LNKSTA, 16)
    link_speed = Field(link_status, 0, 3)
    link_width = Field(link_status, 4, 9)


class Sriov(PciCapability):
    """total_vfs: how many virtual functions the device can have; num_vfs: how many it has. The host makes them."""

    ID = pci_regs.PCI_EXT_CAP_ID_SRIOV
    EXTENDED = True
    control = Register(pci_regs.PCI_SRIOV_CTRL, 16)
    enabled = Field(control, 0)
    total_vfs = Register(pci_regs.PCI_SRIOV_TOTAL_VF, 16)
    num_vfs = Register(pci_regs.PCI_SRIOV_NUM_VF, 16)


_KINDS: dict[tuple[bool, int | None], type[PciCapability]] = {
    (kind.EXTENDED, kind.ID): kind for kind in (PowerManagement, Msi, Msix, PciExpress, Sriov)
}
_NAMES = {
    (match[1] == "EXT_", value): match[2]
    for name, value in vars(pci_regs).items()
    if (match := re.fullmatch(r"PCI_(EXT_)?CAP_ID_(\w+)", name))
}


def capability_at(
    region: Region, offset: int, number: int, version: int = 0, *, extended: bool = False
) -> PciCapability:
    """The capability there, as the class that names its registers if there is one."""
    kind = _KINDS.get((extended, number), PciCapability)
    return kind(region, offset, number, version, extended=extended)
