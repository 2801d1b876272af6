"""GuestMapping, and the table in which they are found by device address and by memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from pyvfio.dma import Access
from virtiomem.runs import Run


@dataclass(frozen=True, slots=True)
class GuestMapping:
    """What a guest has mapped: size bytes of the memory, from offset, at the device address iova.

    It is one mapping in every address space. access: what devices may do with it.
    """

    iova: int
    offset: int
    size: int
    access: Access

    @property
    def end(self) -> int:
        """The first device address after it."""
        return self.iova + self.size

    @property
    def run(self) -> Run:
        """The bytes of the memory that are mapped."""
        return Run(self.offset, self.size)

    def __str__(self) -> str:
        return f"{self.iova:#_x}-{self.end - 1:#_x}"


class GuestMappingTable:
    """Mappings whose device addresses do not overlap, though their memory may. bytes: the size of all of them."""

    def __init__(self, granularity: int) -> None:
        """granularity: bytes of the unit in which memory is looked up."""
        self.bytes = 0
        self._granularity = granularity
        self._mappings: dict[int, GuestMapping] = {}
        self._starts: list[int] = []
        # Which mappings touch each unit of the memory, so that those of a block are found without a search.
        self._by_unit: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._mappings)

    def all(self) -> tuple[GuestMapping, ...]:
        """All mappings, ascending by device address."""
        return tuple(self._mappings[start] for start in self._starts)

    @property
    def first(self) -> GuestMapping | None:
        """The mapping with the lowest device address; None if there is none."""
        return self._mappings[self._starts[0]] if self._starts else None

    def add(self, mapping: GuestMapping) -> None:
        """Enter a mapping whose device addresses overlap no other's."""
        self._mappings[mapping.iova] = mapping
        self._starts.insert(bisect_right(self._starts, mapping.iova), mapping.iova)
        self.bytes += mapping.size
        for unit in self._units(mapping.run):
            self._by_unit.setdefault(unit, set()).add(mapping.iova)

    def remove(self, mapping: GuestMapping) -> None:
        """Take out a mapping that is in the table."""
        del self._mappings[mapping.iova]
        del self._starts[bisect_right(self._starts, mapping.iova) - 1]
        self.bytes -= mapping.size
        for unit in self._units(mapping.run):
            self._by_unit[unit].remove(mapping.iova)
            if not self._by_unit[unit]:
                del self._by_unit[unit]

    def at(self, iova: int, size: int) -> list[GuestMapping]:
        """The mappings that have a device address in the range, ascending."""
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._mappings[self._starts[first]].end <= iova:
            first += 1
        last = bisect_right(self._starts, iova + size - 1)
        return [self._mappings[start] for start in self._starts[first:last]]

    def over(self, run: Run) -> list[GuestMapping]:
        """The mappings of any of these bytes of the memory, ascending by device address."""
        units: Iterable[int] = self._units(run)
        if len(self._by_unit) < len(self._units(run)):
            units = self._by_unit
        near = {iova for unit in units for iova in self._by_unit.get(unit, ())}
        found = (self._mappings[iova] for iova in sorted(near))
        return [mapping for mapping in found if mapping.offset < run.end and run.start < mapping.run.end]

    def _units(self, run: Run) -> range:
        return range(run.start // self._granularity, -(-run.end // self._granularity))
