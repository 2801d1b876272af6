"""What a simulated device is: its regions, vectors and config space, and what its registers do.

A model knows its registers, the bus it is on and time. It knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pyvfio.abi import vfio
from pyvfio.sim.devices.config import SimConfig
from pyvfio.sim.devices.migration import SimMigration

READ_WRITE = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
REGISTERS = READ_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP


@dataclass(frozen=True, slots=True)
class SimRegion:
    """size: bytes. flags: VFIO_REGION_INFO_FLAG_*. areas: offset and size of the parts that can be mapped, None for the
    whole. type: type and subtype of a region of the device's own."""

    size: int
    flags: int = REGISTERS
    areas: tuple[tuple[int, int], ...] | None = None
    type: tuple[int, int] | None = None


@dataclass(slots=True)
class Bus:
    """What the device reaches.

    read, write: memory, through the IOMMU; None and False where it stops them. interrupt: a vector and whether it is
    asserted: a message of MSI-X or MSI, or the level of INTx, whichever is enabled.
    """

    read: Callable[[int, int], bytes | None]
    write: Callable[[int, bytes], bool]
    interrupt: Callable[[int, bool], None]


class Model(Protocol):
    """regions: by index, without config space. vectors: how many of INTx, MSI and MSI-X there are, by index.

    msix_table: BAR, offset and size of the MSI-X table. resettable: whether the function can be reset alone.
    has_vfs: whether it is a physical function with virtual ones. migration: None for a device that cannot be migrated.
    """

    config: SimConfig

    @property
    def regions(self) -> Mapping[int, SimRegion]: ...
    @property
    def vectors(self) -> Mapping[int, int]: ...
    @property
    def msix_table(self) -> tuple[int, int, int] | None: ...
    @property
    def resettable(self) -> bool: ...
    @property
    def has_vfs(self) -> bool: ...
    @property
    def migration(self) -> SimMigration | None: ...

    def load(self, region: int, offset: int, width: int) -> int:
        """One read of width bytes: 1, 2, 4 or 8, aligned."""

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        """One write of width bytes: 1, 2, 4 or 8, aligned."""

    def reset(self) -> None:
        """Set the registers as after a reset; the kernel restores config space."""
