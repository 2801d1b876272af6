"""QEMU's edu device as a model. Source: docs/specs/edu.rst and hw/misc/edu.c in QEMU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.sim.devices.config import SimConfig, msi
from pyvfio.sim.devices.migration import SimMigration
from pyvfio.sim.devices.model import Bus, SimRegion

BAR_SIZE = 1 << 20
BUFFER = 0x40000
BUFFER_SIZE = 4096

_RUN, _FROM_BUFFER, _INTERRUPT = 1, 2, 4
_DMA_DONE, _FACTORIAL_DONE = 0x100, 0x1


@dataclass(slots=True)
class Edu:
    """The registers and the DMA engine. A transfer is over when the write that started it returns."""

    bus: Bus
    config: SimConfig = field(
        default_factory=lambda: SimConfig((0x1234, 0x11E8), 0x00FF00, revision=0x10, capabilities=(msi(),))
    )
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER_SIZE))
    liveness: int = 0
    factorial: int = 0
    status: int = 0
    interrupt_status: int = 0
    transfer: dict[int, int] = field(default_factory=lambda: dict.fromkeys((0x80, 0x88, 0x90, 0x98), 0))

    regions: Mapping[int, SimRegion] = field(default_factory=lambda: {0: SimRegion(BAR_SIZE)})
    vectors: Mapping[int, int] = field(
        default_factory=lambda: {vfio.VFIO_PCI_INTX_IRQ_INDEX: 1, vfio.VFIO_PCI_MSI_IRQ_INDEX: 1}
    )
    msix_table: tuple[int, int, int] | None = None
    resettable: bool = False
    has_vfs: bool = False
    migration: SimMigration | None = None

    def reset(self) -> None:
        self.interrupt_status = 0
        self.transfer = dict.fromkeys(self.transfer, 0)

    def load(self, region: int, offset: int, width: int) -> int:
        del region
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

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        del region
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
                    self.bus.interrupt(0, False)
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
            self.bus.interrupt(0, True)
