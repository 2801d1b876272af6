"""QEMU's 82574 network controller as a model, as far as its address, its link and its vectors go.

Source: Intel, 82574 GbE Controller Family Datasheet, sections 7.4 and 10.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.sim.devices.config import SimConfig, msi, msix, pci_express, power_management
from pyvfio.sim.devices.migration import SimMigration
from pyvfio.sim.devices.model import READ_WRITE, Bus, SimRegion

IDS = (0x8086, 0x10D3)
CLASS_CODE = 0x020000
_VECTORS = 5
_ICR, _ICS, _IMS, _IMC, _IVAR = 0x00C0, 0x00C8, 0x00D0, 0x00D8, 0x00E4
_STATUS, _LINK_UP = 0x0008, 0x2
_RAL, _RAH = 0x5400, 0x5404
_MAC = bytes.fromhex("525400123456")
# Cause: where its vector is in IVAR.
_CAUSES = {1 << 20: 0, 1 << 21: 4, 1 << 22: 8, 1 << 23: 12, 1 << 24: 16}
_VALID = 0x8
# The registers again, one at a time, through I/O ports.
_PORTS, _PORT_ADDRESS, _PORT_DATA = 2, 0, 4
_ROM = b"\x55\xaa"


def _at_reset() -> dict[int, int]:
    return {
        _STATUS: _LINK_UP,
        _RAL: int.from_bytes(_MAC[:4], "little"),
        _RAH: int.from_bytes(_MAC[4:], "little") | 1 << 31,
    }


@dataclass(slots=True)
class E1000e:
    """A register keeps what is written to it. Setting a cause sends the message of its vector, unless it is masked.
    Reading the register of causes clears it; so does writing ones."""

    bus: Bus
    config: SimConfig = field(
        default_factory=lambda: SimConfig(
            IDS,
            CLASS_CODE,
            subsystem=(0x8086, 0),
            capabilities=(power_management(), msi(), pci_express(), msix(_VECTORS, (3, 0), (3, 0x2000))),
        )
    )
    registers: dict[int, int] = field(default_factory=_at_reset)
    regions: Mapping[int, SimRegion] = field(
        default_factory=lambda: {
            0: SimRegion(0x20000),
            1: SimRegion(0x20000),
            2: SimRegion(32, READ_WRITE),
            3: SimRegion(0x4000),
            vfio.VFIO_PCI_ROM_REGION_INDEX: SimRegion(0x40000, vfio.VFIO_REGION_INFO_FLAG_READ),
        }
    )
    vectors: Mapping[int, int] = field(
        default_factory=lambda: {
            vfio.VFIO_PCI_INTX_IRQ_INDEX: 1,
            vfio.VFIO_PCI_MSI_IRQ_INDEX: 1,
            vfio.VFIO_PCI_MSIX_IRQ_INDEX: _VECTORS,
        }
    )
    msix_table: tuple[int, int, int] | None = (3, 0, 16 * _VECTORS)
    resettable: bool = True
    has_vfs: bool = False
    migration: SimMigration | None = None
    _port: int = 0

    def reset(self) -> None:
        self.registers = _at_reset()

    def load(self, region: int, offset: int, width: int) -> int:
        if region == vfio.VFIO_PCI_ROM_REGION_INDEX:
            return int.from_bytes(_ROM[offset : offset + width], "little")
        if region == _PORTS and offset in (_PORT_ADDRESS, _PORT_DATA):
            return self._port if offset == _PORT_ADDRESS else self.load(0, self._port, width)
        if region or width != 4:
            return 0
        value = self.registers.get(offset, 0)
        if offset == _ICR:
            self.registers[_ICR] = 0
        return value

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        if region == _PORTS and offset == _PORT_ADDRESS:
            self._port = value
        elif region == _PORTS and offset == _PORT_DATA:
            self.store(0, self._port, width, value)
        if region or width != 4:
            return
        mask = self.registers.get(_IMS, 0)
        if offset == _ICS:
            self.registers[_ICR] = self.registers.get(_ICR, 0) | value
            self._send(value & mask)
        elif offset == _ICR:
            self.registers[_ICR] = self.registers.get(_ICR, 0) & ~value
        elif offset in (_IMS, _IMC):
            self.registers[_IMS] = mask | value if offset == _IMS else mask & ~value
        else:
            self.registers[offset] = value

    def _send(self, causes: int) -> None:
        for cause, place in _CAUSES.items():
            entry = self.registers.get(_IVAR, 0) >> place & 0xF
            if causes & cause and entry & _VALID:
                self.bus.interrupt(entry & ~_VALID, True)
