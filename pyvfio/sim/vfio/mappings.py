"""The mappings of a container, in order of their device addresses."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from pyvfio.sim.mm import Pin
from pyvfio.sim.process import Process
from pyvfio.sim.rbtree import Node, RedBlackTree, items_from
from pyvfio.sim.vfio.dirty import DirtyBitmap

_LIMIT = 1 << 64


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

    @property
    def ends_at_limit(self) -> bool:
        """Whether it has the last address of all, so that its end does not fit into 64 bits."""
        return self.end == _LIMIT


class Lookup(Protocol):
    """How type1 finds mappings by their addresses. iova, size: bytes; a size of 0 is that of an address alone."""

    def __iter__(self) -> Iterator[DmaMapping]:
        """All that are known, in ascending order."""

    def find(self, iova: int, size: int) -> DmaMapping | None:
        """One with a byte in the range."""

    def within(self, iova: int, end: int) -> Sequence[DmaMapping]:
        """Those that reach beyond iova and begin before end, ascending."""

    def add(self, mapping: DmaMapping) -> None: ...

    def remove(self, mappings: Sequence[DmaMapping]) -> None:
        """mappings: in ascending order."""


class WrappingTree:
    """A Lookup of Linux before 6.18, which reckons the end of a mapping in 64 bits: that of the last page of all is 0.

    The tree has no trouble with where that mapping lies, because one is linked before it has a size, by where it
    begins. But every search that comes by it takes it for one that ends before everything else, and goes on to the
    right of it: what lies to the left, in this branch of the tree, is not found. A search for the last page itself
    goes to the left everywhere.
    Source: drivers/vfio/vfio_iommu_type1.c, vfio_link_dma, vfio_find_dma, vfio_find_dma_first_node.
    """

    def __init__(self) -> None:
        self._tree: RedBlackTree[DmaMapping] = RedBlackTree()
        self._nodes: dict[int, Node[DmaMapping]] = {}

    def __iter__(self) -> Iterator[DmaMapping]:
        return iter(self._tree)

    def find(self, iova: int, size: int) -> DmaMapping | None:
        node, end = self._tree.root, (iova + size) % _LIMIT
        while node is not None:
            other = node.item
            if end <= other.iova:
                node = node.left
            elif iova >= other.end % _LIMIT:
                node = node.right
            else:
                return other
        return None

    def within(self, iova: int, end: int) -> Sequence[DmaMapping]:
        node, first, end = self._tree.root, None, end % _LIMIT
        while node is not None:
            if iova >= node.item.end % _LIMIT:
                node = node.right
                continue
            first = node
            if iova >= node.item.iova:
                break
            node = node.left
        return [*takewhile(lambda mapping: mapping.iova < end, items_from(first))]

    def add(self, mapping: DmaMapping) -> None:
        self._nodes[id(mapping)] = self._tree.insert(mapping, lambda other: mapping.iova <= other.iova)

    def remove(self, mappings: Sequence[DmaMapping]) -> None:
        for mapping in mappings:
            self._tree.remove(self._nodes.pop(id(mapping)))


class MappingList:
    """Mappings in ascending order, which do not overlap but for what was mapped twice over the last page of all.

    What the IOMMU itself knows, and a Lookup of Linux 6.18 and later. Every operation finds its place by bisection.
    """

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

    def find(self, iova: int, size: int) -> DmaMapping | None:
        first, last = self._span(iova, max(size, 1))
        return self._mappings[first] if first < last else None

    def within(self, iova: int, end: int) -> Sequence[DmaMapping]:
        first, last = self._span(iova, end - iova)
        return self._mappings[first:last]

    def add(self, mapping: DmaMapping) -> None:
        index = bisect_left(self._starts, mapping.iova)
        self._starts.insert(index, mapping.iova)
        self._mappings.insert(index, mapping)

    def remove(self, mappings: Sequence[DmaMapping]) -> None:
        while mappings:
            index = bisect_left(self._starts, mappings[0].iova)
            while self._mappings[index] is not mappings[0]:
                index += 1
            # Neighbours go together: taking each out of a long list takes longer than all the rest.
            pairs = zip(self._mappings[index : index + len(mappings)], mappings, strict=False)
            end = index + sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], pairs))
            del self._starts[index:end], self._mappings[index:end]
            mappings = mappings[end - index :]

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
