"""A device of memory: whatever regions, vectors and abilities a test or a program wants of one, and no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.sim.devices.config import SimConfig, msi, msix, pci_express, power_management
from pyvfio.sim.devices.migration import SimMigration
from pyvfio.sim.devices.model import READ_WRITE, Bus, SimRegion

_READ_ONLY = vfio.VFIO_REGION_INFO_FLAG_READ
IDS = (0x1AF4, 0x10FF)
ROM = b"\x55\xaa" + bytes(510)
_MSIX_TABLE = 0x2000
_VECTORS = 16


@dataclass(slots=True)
class PlainDevice:
    """What is written to a region is read back. If nothing else is said, it has a BAR with an MSI-X table, a BAR of
    which two parts can be mapped, a ROM, a VGA region, a region of the device's own type, MSI, reset and migration.
    """

    bus: Bus
    config: SimConfig = field(
        default_factory=lambda: SimConfig(
            IDS,
            0x030000,
            capabilities=(
                power_management(),
                msi(vectors_log2=2),
                msix(_VECTORS, (0, _MSIX_TABLE), (0, 0x3000)),
                pci_express(),
            ),
        )
    )
    regions: Mapping[int, SimRegion] = field(
        default_factory=lambda: {
            0: SimRegion(0x4000),
            2: SimRegion(0x8000, areas=((0x1000, 0x1000), (0x4000, 0x2000))),
            vfio.VFIO_PCI_ROM_REGION_INDEX: SimRegion(len(ROM), _READ_ONLY),
            vfio.VFIO_PCI_VGA_REGION_INDEX: SimRegion(0xC0000, READ_WRITE),
            vfio.VFIO_PCI_NUM_REGIONS: SimRegion(
                0x1000, READ_WRITE, type=(vfio.VFIO_REGION_TYPE_PCI_VENDOR_TYPE | IDS[0], 7)
            ),
        }
    )
    vectors: Mapping[int, int] = field(
        default_factory=lambda: {
            vfio.VFIO_PCI_INTX_IRQ_INDEX: 1,
            vfio.VFIO_PCI_MSI_IRQ_INDEX: 4,
            vfio.VFIO_PCI_MSIX_IRQ_INDEX: _VECTORS,
        }
    )
    msix_table: tuple[int, int, int] | None = (0, _MSIX_TABLE, 16 * _VECTORS)
    resettable: bool = True
    has_vfs: bool = False
    p2p: bool = False
    """Whether it has the migration states in which it begins no DMA to other devices."""
    migration: SimMigration | None = None
    memory: dict[int, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.migration = SimMigration(self._save, self._restore, p2p=self.p2p)
        self.reset()

    def reset(self) -> None:
        self.memory = {index: bytearray(region.size) for index, region in self.regions.items()}
        if vfio.VFIO_PCI_ROM_REGION_INDEX in self.memory:
            self.memory[vfio.VFIO_PCI_ROM_REGION_INDEX][: len(ROM)] = ROM

    def load(self, region: int, offset: int, width: int) -> int:
        return int.from_bytes(self.memory[region][offset : offset + width], "little")

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        self.memory[region][offset : offset + width] = value.to_bytes(width, "little")

    def _save(self) -> bytes:
        return b"".join(bytes(self.memory[index]) for index in sorted(self.memory))

    def _restore(self, state: bytes) -> None:
        if len(state) != sum(map(len, self.memory.values())):
            raise ValueError("not the state of such a device")
        for index in sorted(self.memory):
            size = len(self.memory[index])
            self.memory[index][:] = state[:size]
            state = state[size:]
