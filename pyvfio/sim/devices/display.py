"""Displays of simulated devices. Source: linux/vfio.h, and mbochs.c and mdpy.c of samples/vfio-mdev."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pyvfio.abi import vfio
from pyvfio.sim.devices.config import SimConfig
from pyvfio.sim.devices.model import Bus, SimRegion
from pyvfio.sim.devices.plain import PlainDevice

REGION = 16
"""The region that a Picture is in."""

_MEMORY = 4 << 20
_WIDEST, _HIGHEST = 800, 600
_MODE = 0x500
_X, _Y, _BITS, _ENABLE = _MODE + 2, _MODE + 4, _MODE + 6, _MODE + 8
_EDID_BLOB, _EDID_SIZE = 2048, 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of XRGB8888 pixels. width, height: pixels; size: bytes; place: its region, or the id of its dma-buf."""

    width: int
    height: int
    size: int
    place: int


@runtime_checkable
class Screen(Protocol):
    """A model whose device has a display. gfx_plane_type: VFIO_GFX_PLANE_TYPE_DMABUF or _REGION; with the latter there
    are no dma-bufs."""

    gfx_plane_type: int

    def shown(self) -> Shown | None:
        """The primary plane, one line after another; None while nothing is shown."""

    def dma_buf(self, dmabuf_id: int, /) -> int:
        """A new descriptor of the running kernel's file that has the pixels. Raises KeyError for no such id."""


class Bochs:
    """A display adapter of the Bochs emulator, with an EDID region: pixels in BAR 0, the mode in BAR 2 at 0x500.

    It neither pans nor has lines longer than the screen is wide.
    """

    gfx_plane_type = vfio.VFIO_GFX_PLANE_TYPE_DMABUF
    vectors: Mapping[int, int] = {}
    msix_table = None
    resettable = True
    has_vfs = False
    migration = None

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.config = SimConfig((0x1234, 0x1111), 0x038000, revision=1)
        self.regions: Mapping[int, SimRegion] = {
            0: SimRegion(_MEMORY),
            2: SimRegion(4096),
            vfio.VFIO_PCI_NUM_REGIONS: SimRegion(
                4096, flags=3, type=(vfio.VFIO_REGION_TYPE_GFX, vfio.VFIO_REGION_SUBTYPE_GFX_EDID)
            ),
        }
        self._file = os.memfd_create("display")
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, _MEMORY)
        self._pixels = mmap.mmap(self._file, _MEMORY)
        self._registers = bytearray(4096)
        self._edid = bytearray(4096)
        head = vfio.vfio_region_gfx_edid(_EDID_BLOB, _EDID_SIZE, 0, _WIDEST, _HIGHEST)
        self._edid[:24] = bytes(head)
        self._modes: list[tuple[int, int]] = []

    def reset(self) -> None:
        """It keeps what it shows, as the sample does."""

    def load(self, region: int, offset: int, width: int) -> int:
        return int.from_bytes(self._memory(region)[offset : offset + width], "little")

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        self._memory(region)[offset : offset + width] = value.to_bytes(width, "little")

    def shown(self) -> Shown | None:
        width, height = self.load(2, _X, 2), self.load(2, _Y, 2)
        is_sensible = width >= 64 and height >= 64 and 4 * width * height <= _MEMORY
        if not self.load(2, _ENABLE, 2) & 1 or self.load(2, _BITS, 2) != 32 or not is_sensible:
            return None
        if (width, height) not in self._modes:
            self._modes.append((width, height))
        return Shown(width, height, 4 * width * height, 1 + self._modes.index((width, height)))

    def dma_buf(self, dmabuf_id: int) -> int:
        if not 1 <= dmabuf_id <= len(self._modes):
            raise KeyError(dmabuf_id)
        return os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY | os.O_CLOEXEC)

    def _memory(self, region: int) -> bytearray | mmap.mmap:
        if region == 0:
            return self._pixels
        return self._registers if region == vfio.VFIO_PCI_BAR2_REGION_INDEX else self._edid


class Picture(PlainDevice):
    """A picture of 640 by 480 pixels in a region, always shown."""

    gfx_plane_type = vfio.VFIO_GFX_PLANE_TYPE_REGION

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus, regions={REGION: SimRegion(4 * 640 * 480)})

    def shown(self) -> Shown | None:
        return Shown(640, 480, self.regions[REGION].size, REGION)

    def dma_buf(self, dmabuf_id: int) -> int:
        raise KeyError(dmabuf_id)
