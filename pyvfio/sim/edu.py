"""QEMU's edu device as a model. Source: docs/specs/edu.rst and hw/misc/edu.c in QEMU."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pyvfio.abi import pci_regs, vfio
from pyvfio.sim.user import fail

BAR_SIZE = 1 << 20
BUFFER = 0x40000
BUFFER_SIZE = 4096

_RUN, _FROM_BUFFER, _INTERRUPT = 1, 2, 4
_DMA_DONE, _FACTORIAL_DONE = 0x100, 0x1
_MSI_CAPABILITY = 0x40
_COMMAND_AT_OPEN = pci_regs.PCI_COMMAND_IO | pci_regs.PCI_COMMAND_MEMORY | pci_regs.PCI_COMMAND_SERR


@dataclass(frozen=True, slots=True)
class DmaFault:
    """A transfer the IOMMU stopped."""

    device: str
    iova: int
    size: int
    write: bool


@dataclass(slots=True)
class Bus:
    """What the device reaches: memory through the IOMMU (None and False where it stops it), and its interrupt line."""

    read: Callable[[int, int], bytes | None]
    write: Callable[[int, bytes], bool]
    interrupt: Callable[[bool], None]


@dataclass(slots=True)
class Edu:
    """Registers and DMA engine. A transfer is over when the write that started it returns."""

    bus: Bus
    config: bytearray = field(default_factory=bytearray)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER_SIZE))
    liveness: int = 0
    factorial: int = 0
    status: int = 0
    interrupt_status: int = 0
    transfer: dict[int, int] = field(default_factory=lambda: dict.fromkeys((0x80, 0x88, 0x90, 0x98), 0))

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at open: bus mastering off."""
        self.config = bytearray(pci_regs.PCI_CFG_SPACE_SIZE)
        self.config[0:4] = bytes.fromhex("3412e811")
        self._set_config16(pci_regs.PCI_COMMAND, _COMMAND_AT_OPEN)
        self._set_config16(pci_regs.PCI_STATUS, pci_regs.PCI_STATUS_CAP_LIST)
        self.config[8:12] = bytes.fromhex("1000ff00")
        self._set_config16(pci_regs.PCI_SUBSYSTEM_VENDOR_ID, 0x1AF4)
        self._set_config16(pci_regs.PCI_SUBSYSTEM_ID, 0x1100)
        self.config[pci_regs.PCI_CAPABILITY_LIST] = _MSI_CAPABILITY
        self.config[pci_regs.PCI_INTERRUPT_PIN] = 1
        self.config[_MSI_CAPABILITY] = pci_regs.PCI_CAP_ID_MSI
        self._set_config16(_MSI_CAPABILITY + pci_regs.PCI_MSI_FLAGS, pci_regs.PCI_MSI_FLAGS_64BIT)
        self.interrupt_status = 0
        self.transfer = dict.fromkeys(self.transfer, 0)

    @property
    def command(self) -> int:
        return int.from_bytes(self.config[4:6], "little")

    @property
    def is_bus_master(self) -> bool:
        return bool(self.command & pci_regs.PCI_COMMAND_MASTER)

    @property
    def answers_memory(self) -> bool:
        return bool(self.command & pci_regs.PCI_COMMAND_MEMORY)

    def write_config(self, offset: int, data: bytes) -> None:
        """Only the command register and the interrupt line take anything."""
        for position, byte in enumerate(data, offset):
            if position in (4, 5, pci_regs.PCI_INTERRUPT_LINE):
                self.config[position] = byte

    def load(self, offset: int, width: int) -> int:
        if offset < 0x80 and width != 4:
            return (1 << 8 * width) - 1 if width == 8 else 0
        match offset:
            case 0x00:
                return 0x0100_00ED
            case 0x04:
                return ~self.liveness & 0xFFFF_FFFF
            case 0x08:
                return self.factorial
            case 0x20:
                return self.status
            case 0x24:
                return self.interrupt_status
            case 0x80 | 0x88 | 0x90 | 0x98 if width in (4, 8):
                return self.transfer[offset] & (1 << 8 * width) - 1
            case _:
                return (1 << 8 * width) - 1

    def store(self, offset: int, width: int, value: int) -> None:
        if width != 4 and (offset < 0x80 or width != 8):
            return
        match offset:
            case 0x04:
                self.liveness = value
            case 0x08:
                self.factorial = math.factorial(value) & 0xFFFF_FFFF if value < 34 else 0
                if self.status & 0x80:
                    self._raise(_FACTORIAL_DONE)
            case 0x20:
                self.status = value & 0x80
            case 0x60:
                self._raise(value)
            case 0x64:
                self.interrupt_status &= ~value
                if not self.interrupt_status:
                    self.bus.interrupt(False)
            case 0x80 | 0x88 | 0x90:
                self.transfer[offset] = value
            case 0x98 if value & _RUN:
                self.transfer[0x98] = value
                self._move()
                self.transfer[0x98] &= ~_RUN
                if value & _INTERRUPT:
                    self._raise(_DMA_DONE)

    def _move(self) -> None:
        source, destination, count = self.transfer[0x80], self.transfer[0x88], self.transfer[0x90]
        inside = destination if not self.transfer[0x98] & _FROM_BUFFER else source
        start = inside - BUFFER
        if not 0 < count <= BUFFER_SIZE or not 0 <= start <= BUFFER_SIZE - count:
            return
        if self.transfer[0x98] & _FROM_BUFFER:
            self.bus.write(destination, bytes(self.buffer[start : start + count]))
        else:
            data = self.bus.read(source, count)
            if data is not None:
                self.buffer[start : start + count] = data

    def _raise(self, status: int) -> None:
        self.interrupt_status |= status
        if self.interrupt_status:
            self.bus.interrupt(True)

    def _set_config16(self, offset: int, value: int) -> None:
        self.config[offset : offset + 2] = value.to_bytes(2, "little")


def require_decoding(model: Edu) -> None:
    """Registers behind a BAR do not answer while memory decoding is off."""
    if not model.answers_memory:
        raise fail(errno.EIO)


# region index: flags, size
REGIONS = {
    vfio.VFIO_PCI_BAR0_REGION_INDEX: (7, BAR_SIZE),
    vfio.VFIO_PCI_CONFIG_REGION_INDEX: (3, pci_regs.PCI_CFG_SPACE_SIZE),
}
