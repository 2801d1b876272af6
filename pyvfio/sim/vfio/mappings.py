"""The mappings of a container, in order of their device addresses."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyvfio.sim.mm import Pin
from pyvfio.sim.process import Process
from pyvfio.sim.vfio.dirty import DirtyBitmap


class Mapped(Protocol):
    """What an address of a device is translated to."""

    @property
    def pin(self) -> Pin | None: ...


Part = tuple[Mapped, int, int]
"""A part of a transfer: a mapping, an offset in its pin, and a length."""
Translate = Callable[[int, int, int], "Sequence[Part] | None"]
"""From an iova, a size and VFIO_DMA_MAP_FLAG_READ or _WRITE to parts; None where the IOMMU stops the transfer."""


@dataclass(slots=True)
class DmaMapping:
    """What one MAP_DMA made. iova, size: bytes; vaddr: an address of owner; flags: VFIO_DMA_MAP_FLAG_*.

    owner: the process that is charged; is_exempt: it had CAP_IPC_LOCK. pin None: nothing is pinned.
    is_entered: the IOMMU translates it; without an IOMMU (mediated devices) it is only
    recorded. has_vaddr: false between VFIO_DMA_UNMAP_FLAG_VADDR and VFIO_DMA_MAP_FLAG_VADDR. dirty: None while dirty
    pages are not tracked.
    """

    iova: int
    size: int
    vaddr: int
    flags: int
    owner: Process
    is_exempt: bool
    pin: Pin | None = None
    is_entered: bool = False
    has_vaddr: bool = True
    dirty: DirtyBitmap | None = None

    @property
    def end(self) -> int:
        return self.iova + self.size


class MappingList:
    """Mappings that do not overlap, in ascending order. Every operation finds its place by bisection."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._mappings: list[DmaMapping] = []

    def __iter__(self) -> Iterator[DmaMapping]:
        return iter(self._mappings)

    def __len__(self) -> int:
        return len(self._mappings)

    def at(self, iova: int) -> DmaMapping | None:
        """The mapping that holds this address."""
        index = bisect_right(self._starts, iova) - 1
        return self._mappings[index] if index >= 0 and iova < self._mappings[index].end else None

    def overlapping(self, iova: int, size: int) -> list[DmaMapping]:
        """Those with a byte in the range."""
        first, last = self._span(iova, size)
        return self._mappings[first:last]

    def overlaps(self, iova: int, size: int) -> bool:
        first, last = self._span(iova, size)
        return first < last

    def add(self, mapping: DmaMapping) -> None:
        index = bisect_left(self._starts, mapping.iova)
        self._starts.insert(index, mapping.iova)
        self._mappings.insert(index, mapping)

    def remove(self, mappings: list[DmaMapping]) -> None:
        """mappings: neighbours, ascending."""
        if mappings:
            first = bisect_left(self._starts, mappings[0].iova)
            del self._starts[first : first + len(mappings)], self._mappings[first : first + len(mappings)]

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[DmaMapping, int, int]] | None:
        """Mapping, offset in it and length of each part of a transfer; None if the IOMMU stops it anywhere."""
        parts = []
        while size:
            mapping = self.at(iova)
            if mapping is None or not mapping.flags & flag or not mapping.is_entered:
                return None
            length = min(size, mapping.end - iova)
            parts.append((mapping, iova - mapping.iova, length))
            iova, size = iova + length, size - length
        return parts

    def _span(self, iova: int, size: int) -> tuple[int, int]:
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._mappings[first].end <= iova:
            first += 1
        return first, bisect_left(self._starts, iova + size)
