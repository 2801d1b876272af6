"""GuestMapping, and the table in which they are found by device address and by memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyvfio.dma import Access, MappedRun, SpanIndex
from pyvfio.memory import Memory
from virtiomem.discard import Backing, Section
from virtiomem.runs import Run


@dataclass(frozen=True, slots=True)
class GuestMapping:
    """What a guest has mapped in a domain: size bytes from its guest-physical address, at the device address iova.

    access: what devices may do with it. parts: where these bytes are, ascending: parts of the guest's sections, each of
    which is one mapping in every address space of the domain.
    """

    iova: int
    address: int
    size: int
    access: Access
    parts: tuple[Section, ...] = field(default=(), compare=False, repr=False)

    @property
    def end(self) -> int:
        """The first device address after it."""
        return self.iova + self.size

    def runs_of(self, memory: Backing) -> list[Run]:
        """The bytes of memory that are mapped; none if it lies in other memory."""
        return [part.run for part in self.parts if part.memory is memory]

    def mapped_runs(self) -> Iterator[MappedRun]:
        """What an address space has for it, ascending: one mapping for each part."""
        moved = self.iova - self.address
        for part in self.parts:
            assert isinstance(part.memory, Memory)
            iova = part.offset_within_address_space + moved
            yield MappedRun(iova, part.size, part.memory, part.offset_within_region, self.access)

    def __str__(self) -> str:
        return f"{self.iova:#_x}-{self.end - 1:#_x}"


class GuestMappingTable:
    """Mappings whose device addresses do not overlap, though their memory may.

    The mappings by device address are the record. What is derived from it is made anew after a change that an exception
    has broken off. A question costs what it finds and a search, not what the table holds.
    """

    def __init__(self, memory: Backing, granularity: int) -> None:
        """memory: whose bytes mappings are looked up by. granularity: bytes of the smallest unit of that."""
        self._memory = memory
        self._granularity = granularity
        self._mappings: dict[int, GuestMapping] = {}
        self._is_broken_off = False
        self._clear()

    def __len__(self) -> int:
        return len(self._mappings)

    @property
    def bytes(self) -> int:
        """The size of all mappings."""
        self._mend()
        return self._bytes

    @property
    def parts(self) -> int:
        """How many parts the mappings have, each a mapping of every address space."""
        self._mend()
        return self._parts

    @property
    def first(self) -> GuestMapping | None:
        """The mapping with the lowest device address; None if there is none."""
        self._mend()
        return self._mappings[self._starts[0]] if self._starts else None

    def all(self) -> tuple[GuestMapping, ...]:
        """All mappings, ascending by device address."""
        self._mend()
        return tuple(self._mappings[start] for start in self._starts)

    def has(self, mapping: GuestMapping) -> bool:
        """Whether just this object is in the table."""
        return self._mappings.get(mapping.iova) is mapping

    def add(self, mapping: GuestMapping) -> None:
        """Enter a mapping whose device addresses overlap no other's."""
        self._mend()
        self._is_broken_off = True
        self._mappings[mapping.iova] = mapping
        self._starts.insert(bisect_right(self._starts, mapping.iova), mapping.iova)
        self._count_in(mapping, 1)
        self._is_broken_off = False

    def remove(self, mappings: Sequence[GuestMapping]) -> None:
        """Take out mappings, ascending by device address, all of which are in the table."""
        groups = self.neighbours(mappings)
        self._is_broken_off = True
        for group in groups:
            first = bisect_left(self._starts, group[0].iova)
            del self._starts[first : first + len(group)]
            for mapping in group:
                del self._mappings[mapping.iova]
                self._count_in(mapping, -1)
        self._is_broken_off = False

    def at(self, iova: int, size: int) -> list[GuestMapping]:
        """The mappings that have a device address in the range, ascending."""
        self._mend()
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._mappings[self._starts[first]].end <= iova:
            first += 1
        last = bisect_left(self._starts, iova + size, lo=first)
        return [self._mappings[start] for start in self._starts[first:last]]

    def over(self, run: Run) -> list[GuestMapping]:
        """The mappings of any of these bytes of the memory, ascending by device address."""
        self._mend()
        near = sorted(self._by_memory.near(run.start, run.size))
        found = dict.fromkeys(self._starts[bisect_right(self._starts, iova) - 1] for iova in near)
        mappings = (self._mappings[start] for start in found)
        return [each for each in mappings if any(_touch(part, run) for part in each.runs_of(self._memory))]

    def neighbours(self, mappings: Sequence[GuestMapping]) -> list[list[GuestMapping]]:
        """mappings of the table, ascending, in lists between whose mappings no other mapping lies."""
        self._mend()
        groups: list[list[GuestMapping]] = []
        following = len(self._starts)
        for mapping in mappings:
            if following < len(self._starts) and self._starts[following] == mapping.iova:
                groups[-1].append(mapping)
            else:
                groups.append([mapping])
                following = bisect_left(self._starts, mapping.iova)
            following += 1
        return groups

    def _count_in(self, mapping: GuestMapping, sign: int) -> None:
        """Count a mapping that was added (sign 1) or taken out (-1)."""
        self._bytes += sign * mapping.size
        self._parts += sign * len(mapping.parts)
        memory: object = self._memory
        change = self._by_memory.add if sign > 0 else self._by_memory.remove
        for run in mapping.mapped_runs():
            if run.memory is memory:
                change(run.offset, run.size, run.iova)

    def _clear(self) -> None:
        self._bytes = self._parts = 0
        self._starts: list[int] = []
        self._by_memory = SpanIndex(self._granularity)

    def _mend(self) -> None:
        """Finish what an exception has broken off."""
        if self._is_broken_off:
            self._clear()
            self._starts = sorted(self._mappings)
            for mapping in self._mappings.values():
                self._count_in(mapping, 1)
            self._is_broken_off = False


def _touch(one: Run, other: Run) -> bool:
    return one.start < other.end and other.start < one.end
