"""The capabilities of PCI config space, with their registers by name. Source: linux/pci_regs.h."""

from __future__ import annotations

import re
from typing import ClassVar

from pyvfio.abi import pci_regs
from pyvfio.device.registers import Field, Register, Registers, RegisterSpace


class PciCapability(Registers):
    """One entry of a capability list. The offsets of its registers count from its header.

    offset: where its header is in config space, in bytes. id: a PCI_CAP_ID_* in the standard list, a PCI_EXT_CAP_ID_*
    in the extended one. version: of an extended capability; 0 for others. extended: whether it is in the extended list.
    ID and EXTENDED: the id and the list of what a subclass describes.
    """

    ID: ClassVar[int | None] = None
    EXTENDED: ClassVar[bool] = False
    offset: int
    id: int
    version: int
    extended: bool

    def __init__(
        self, region: RegisterSpace, offset: int, number: int, version: int = 0, *, extended: bool = False
    ) -> None:
        super().__init__(region, offset)
        self.offset = offset
        self.id = number
        self.version = version
        self.extended = extended

    @property
    def name(self) -> str:
        """The name in linux/pci_regs.h without its prefix, "MSIX" or "SRIOV"; "0x7f" for an id without a name there."""
        return _NAMES.get((self.extended, self.id), f"{self.id:#x}")

    def __repr__(self) -> str:
        return f"<PciCapability {self.name} at {self.offset:#x}>"


class PowerManagement(PciCapability):
    """The power management capability.

    state: from 0 for D0, in which the device works, to 3 for D3hot, in which its BARs do not answer. no_soft_reset:
    1 if the device keeps its state on the way from D3hot to D0. control: the register with both.
    """

    ID = pci_regs.PCI_CAP_ID_PM
    control = Register(pci_regs.PCI_PM_CTRL, 16)
    state = Field(control, 0, 1)
    no_soft_reset = Field(control, 3)


class Msi(PciCapability):
    """The MSI capability. The kernel programs it: see Interrupts.

    enabled: 1 while MSI is enabled. vectors_log2: the device has 2 ** vectors_log2 vectors. is_64bit: 1 if it can write
    to 64-bit addresses. can_mask: 1 if single vectors can be masked. flags: the register with all of them.
    """

    ID = pci_regs.PCI_CAP_ID_MSI
    flags = Register(pci_regs.PCI_MSI_FLAGS, 16)
    enabled = Field(flags, 0)
    vectors_log2 = Field(flags, 1, 3)
    is_64bit = Field(flags, 7)
    can_mask = Field(flags, 8)


class Msix(PciCapability):
    """The MSI-X capability. The kernel programs it: see Interrupts.

    enabled: 1 while MSI-X is enabled. masked: 1 while all vectors are masked. last_vector: the number of the last one.
    flags: the register with these. table_bar, pending_bar: the BARs with the vector table and the pending bits. table,
    pending: the registers that say where in them.
    """

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
        """How many vectors the device has."""
        return self.last_vector + 1

    @property
    def table_offset(self) -> int:
        """Where the vector table begins in its BAR, in bytes."""
        return self.table & pci_regs.PCI_MSIX_TABLE_OFFSET

    @property
    def pending_offset(self) -> int:
        """Where the pending bits begin in their BAR, in bytes."""
        return self.pending & pci_regs.PCI_MSIX_PBA_OFFSET


class PciExpress(PciCapability):
    """The PCI Express capability.

    type: a PCI_EXP_TYPE_*. can_function_reset: 1 if the function can be reset alone. max_payload_code,
    max_read_request_code: 0 for 128 bytes, 1 for 256, up to 5 for 4096. transactions_pending: 1 while the device waits
    for an answer to a request. link_speed: 1 for 2.5 GT/s, 2 for 5, 3 for 8, 4 for 16. link_width: lanes. The others
    are the registers with these.
    """

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
    """The SR-IOV capability. The host makes the virtual functions.

    enabled: 1 while the device has virtual functions. total_vfs: how many it can have. num_vfs: how many it has.
    control: the register with enabled.
    """

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
    region: RegisterSpace, offset: int, number: int, version: int = 0, *, extended: bool = False
) -> PciCapability:
    """The capability at offset of config space, as the class that names its registers if there is one."""
    kind = _KINDS.get((extended, number), PciCapability)
    return kind(region, offset, number, version, extended=extended)
