"""Config space of a simulated PCI function, built from its capabilities."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyvfio.abi import pci_regs

_COMMAND_AT_OPEN = pci_regs.PCI_COMMAND_IO | pci_regs.PCI_COMMAND_MEMORY | pci_regs.PCI_COMMAND_SERR
_FIRST_CAPABILITY = 0x40
_END_OF_BARS = 0xFEB0_0000


@dataclass(frozen=True, slots=True)
class Capability:
    """A capability. id: PCI_CAP_ID_* or PCI_EXT_CAP_ID_*; body: what follows the header; version: of an extended one.

    writable: fields of 16 bits, as the offset from the header and the mask of bits that can be written.
    """

    id: int
    body: bytes
    version: int = 0
    writable: tuple[tuple[int, int], ...] = ()


def power_management() -> Capability:
    """The state of the function's power is in it. D3 and back to D0 does not reset the function."""
    return Capability(
        pci_regs.PCI_CAP_ID_PM,
        struct.pack("<HHH", 3, pci_regs.PCI_PM_CTRL_NO_SOFT_RESET, 0),
        writable=((pci_regs.PCI_PM_CTRL, pci_regs.PCI_PM_CTRL_STATE_MASK),),
    )


def msi(vectors_log2: int = 0) -> Capability:
    """MSI with 2 to the power of vectors_log2 vectors."""
    return Capability(
        pci_regs.PCI_CAP_ID_MSI, struct.pack("<HIIH", pci_regs.PCI_MSI_FLAGS_64BIT | vectors_log2 << 1, 0, 0, 0)
    )


def msix(vectors: int, table: tuple[int, int], pending: tuple[int, int]) -> Capability:
    """MSI-X with so many vectors. table, pending: the BAR that has the table and the pending bits, and the offset."""
    (table_bar, table_offset), (pending_bar, pending_offset) = table, pending
    return Capability(
        pci_regs.PCI_CAP_ID_MSIX,
        struct.pack("<HII", vectors - 1, table_offset | table_bar, pending_offset | pending_bar),
    )


def pci_express() -> Capability:
    """PCI Express, of an endpoint that can reset its function."""
    body = bytearray(58)
    struct.pack_into("<HI", body, 0, 2, pci_regs.PCI_EXP_DEVCAP_FLR)
    struct.pack_into("<H", body, pci_regs.PCI_EXP_LNKSTA - 2, 0x11)
    return Capability(pci_regs.PCI_CAP_ID_EXP, bytes(body), writable=((pci_regs.PCI_EXP_DEVCTL, 0x7FFF),))


def single_root_io_virtualization(total_vfs: int) -> Capability:
    """SR-IOV, of a physical function that may have total_vfs virtual ones."""
    body = bytearray(60)
    struct.pack_into("<H", body, pci_regs.PCI_SRIOV_TOTAL_VF - 4, total_vfs)
    return Capability(pci_regs.PCI_EXT_CAP_ID_SRIOV, bytes(body), version=1)


class SimConfig:
    """Config space as a program finds it at open: memory decoding on, bus mastering off.

    4096 bytes with PCI Express, 256 without. silences: how often the function has stopped to decode memory.
    """

    def __init__(
        self,
        ids: tuple[int, int],
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (0x1AF4, 0x1100),
        interrupt_pin: int = 1,
        capabilities: Sequence[Capability] = (),
        extended: Sequence[Capability] = (),
    ) -> None:
        """ids, subsystem: vendor and device of each. class_code: 24 bits. interrupt_pin: 1 for INTA, 0 for none.

        capabilities, extended: in the order in which their list leads to them.
        """
        self.silences = 0
        self.is_express = any(capability.id == pci_regs.PCI_CAP_ID_EXP for capability in capabilities)
        size = pci_regs.PCI_CFG_SPACE_EXP_SIZE if self.is_express else pci_regs.PCI_CFG_SPACE_SIZE
        self._data = bytearray(size)
        self._writable = bytearray(size)
        struct.pack_into("<HHHH", self._data, 0, *ids, _COMMAND_AT_OPEN, 0)
        struct.pack_into("<I", self._data, pci_regs.PCI_CLASS_REVISION, class_code << 8 | revision)
        struct.pack_into("<HH", self._data, pci_regs.PCI_SUBSYSTEM_VENDOR_ID, *subsystem)
        self._data[pci_regs.PCI_INTERRUPT_PIN] = interrupt_pin
        self._allow(pci_regs.PCI_COMMAND, 0xFFFF)
        self._allow(pci_regs.PCI_INTERRUPT_LINE, 0xFF)
        self._add(capabilities)
        self._add_extended(extended)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Write the bits that can be written; the others stay as they are."""
        answered = self.answers_memory
        for position, byte in enumerate(data, offset):
            mask = self._writable[position]
            self._data[position] = self._data[position] & ~mask | byte & mask
        self.silences += answered and not self.answers_memory

    @property
    def command(self) -> int:
        return int.from_bytes(self._data[pci_regs.PCI_COMMAND : pci_regs.PCI_COMMAND + 2], "little")

    @property
    def is_bus_master(self) -> bool:
        return bool(self.command & pci_regs.PCI_COMMAND_MASTER)

    @property
    def answers_memory(self) -> bool:
        return bool(self.command & pci_regs.PCI_COMMAND_MEMORY) and not self._power_state

    def wake(self) -> None:
        """Bring the function to D0."""
        if self._power:
            self._data[self._power + pci_regs.PCI_PM_CTRL] &= ~pci_regs.PCI_PM_CTRL_STATE_MASK & 0xFF

    @property
    def _power_state(self) -> int:
        return self._data[self._power + pci_regs.PCI_PM_CTRL] & pci_regs.PCI_PM_CTRL_STATE_MASK if self._power else 0

    def place_bars(self, sizes: Mapping[int, int]) -> None:
        """Memory BARs of 32 bits, at addresses that the host might have chosen. sizes: bytes, by number."""
        address = _END_OF_BARS
        for index, size in sizes.items():
            size = 1 << (size - 1).bit_length()
            address = (address - size) & -size
            place = pci_regs.PCI_BASE_ADDRESS_0 + 4 * index
            struct.pack_into("<I", self._data, place, address)
            struct.pack_into("<I", self._writable, place, -size & 0xFFFF_FFFF)

    def _allow(self, offset: int, mask: int) -> None:
        """mask: 16 bits."""
        self._writable[offset] |= mask & 0xFF
        self._writable[offset + 1] |= mask >> 8

    def _add(self, capabilities: Sequence[Capability]) -> None:
        self._power = 0
        link, place = pci_regs.PCI_CAPABILITY_LIST, _FIRST_CAPABILITY
        for capability in capabilities:
            self._data[pci_regs.PCI_STATUS] |= pci_regs.PCI_STATUS_CAP_LIST
            self._data[link] = place
            self._data[place] = capability.id
            self._data[place + 2 : place + 2 + len(capability.body)] = capability.body
            for offset, mask in capability.writable:
                self._allow(place + offset, mask)
            if capability.id == pci_regs.PCI_CAP_ID_PM:
                self._power = place
            link, place = place + pci_regs.PCI_CAP_LIST_NEXT, place + 2 + len(capability.body) + 3 & ~3

    def _add_extended(self, capabilities: Sequence[Capability]) -> None:
        place = pci_regs.PCI_CFG_SPACE_SIZE
        for number, capability in enumerate(capabilities, 1):
            following = place + 4 + len(capability.body) + 3 & ~3
            link = following if number < len(capabilities) else 0
            struct.pack_into("<I", self._data, place, capability.id | capability.version << 16 | link << 20)
            self._data[place + 4 : place + 4 + len(capability.body)] = capability.body
            place = following
