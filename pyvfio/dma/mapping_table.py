"""MappingTable: the record of what an address space has mapped, as runs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace

from pyvfio.dma.address_space import MappedRun
from pyvfio.memory import Memory


class MappingTable:
    """Mapped runs in ascending order, none of which overlap. It holds the memory of each run, as a MemoryUser.

    count: how many mappings the runs have.
    """

    def __init__(self) -> None:
        self.count = 0
        self._starts: list[int] = []
        self._runs: list[MappedRun] = []
        # Bytes mapped, by memory and by the distance from offset to iova: runs of one distance ascend alike in both.
        self._bytes: dict[Memory, dict[int, int]] = {}

    def runs(self) -> tuple[MappedRun, ...]:
        """Every run, ascending."""
        return tuple(self._runs)

    def overlapping(self, iova: int, size: int) -> MappedRun | None:
        """The first run with a byte in the range; None if there is none."""
        first, last = self._span(iova, size)
        return self._runs[first] if first < last else None

    def covered(self, iova: int, size: int) -> int:
        """How many bytes of the range are mapped."""
        first, last = self._span(iova, size)
        return sum(min(run.end, iova + size) - max(run.iova, iova) for run in self._runs[first:last])

    def parts(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """The part of each run that lies in the range, ascending."""
        first, last = self._span(iova, size)
        return tuple(_part(run, max(run.iova, iova), min(run.end, iova + size)) for run in self._runs[first:last])

    def bisected(self, iova: int, size: int) -> MappedRun | None:
        """A run with a mapping that reaches over an end of the range; None if there is none."""
        for address in (iova, iova + size):
            index = bisect_right(self._starts, address) - 1
            if index >= 0 and not _boundary(self._runs[index], address):
                return self._runs[index]
        return None

    def iova_of(self, memory: Memory, offset: int, size: int) -> int | None:
        """An address at which devices reach some of these bytes, the first that is mapped there; None if none is."""
        for distance in self._bytes.get(memory, ()):
            first, last = self._span(offset + distance, size)
            for run in self._runs[first:last]:
                if run.memory is memory and run.iova - run.offset == distance:
                    return distance + max(run.offset, offset)
        return None

    def add(self, run: MappedRun) -> None:
        """Add a run that overlaps none. Raises ClosedError if its memory is closed."""
        if run.memory not in self._bytes:
            run.memory.hold(self)
            self._bytes[run.memory] = {}
        distances, distance = self._bytes[run.memory], run.iova - run.offset
        distances[distance] = distances.get(distance, 0) + run.size
        self.count += run.mappings
        index = bisect_left(self._starts, run.iova)
        if index < len(self._runs) and _joins(run, self._runs[index]):
            run = replace(run, size=run.size + self._runs[index].size)
            self._delete(index)
        if index > 0 and _joins(self._runs[index - 1], run):
            index -= 1
            run = replace(self._runs[index], size=self._runs[index].size + run.size)
            self._delete(index)
        self._runs.insert(index, run)
        self._starts.insert(index, run.iova)

    def remove(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """Take out what lies in the range, which cuts no mapping; return it."""
        first, last = self._span(iova, size)
        removed, kept = [], []
        for run in self._runs[first:last]:
            start, end = max(run.iova, iova), min(run.end, iova + size)
            removed.append(_part(run, start, end))
            kept += [_part(run, *ends) for ends in ((run.iova, start), (end, run.end)) if ends[0] < ends[1]]
        self._runs[first:last] = kept
        self._starts[first:last] = [run.iova for run in kept]
        for run in removed:
            self.count -= run.mappings
            self._forget(run)
        return tuple(removed)

    def clear(self) -> None:
        """Take out everything."""
        if self._runs:
            self.remove(self._runs[0].iova, self._runs[-1].end - self._runs[0].iova)

    def _forget(self, run: MappedRun) -> None:
        """Release the memory of a run that was taken out, with the last of its runs."""
        distances, distance = self._bytes[run.memory], run.iova - run.offset
        distances[distance] -= run.size
        if not distances[distance]:
            del distances[distance]
        if not distances:
            del self._bytes[run.memory]
            run.memory.release(self)

    def _span(self, iova: int, size: int) -> tuple[int, int]:
        """The indexes of the first run in the range and of the first one behind it."""
        first = bisect_right(self._starts, iova) - 1
        if first < 0 or self._runs[first].end <= iova:
            first += 1
        return first, bisect_left(self._starts, iova + size)

    def _delete(self, index: int) -> None:
        del self._runs[index]
        del self._starts[index]


def _boundary(run: MappedRun, address: int) -> bool:
    """Whether no mapping of the run reaches over address."""
    if not run.iova < address < run.end:
        return True
    return run.granularity is not None and (run.offset + address - run.iova) % run.granularity == 0


def _joins(left: MappedRun, right: MappedRun) -> bool:
    """Whether the two can be one run: whether right follows left, and a mapping ends where they meet."""
    return (
        left.end == right.iova
        and left.granularity is not None
        and left.granularity == right.granularity
        and right.offset % left.granularity == 0
        and left.memory is right.memory
        and left.offset + left.size == right.offset
        and left.access == right.access
    )


def _part(run: MappedRun, start: int, end: int) -> MappedRun:
    """The run from the address start up to end."""
    return replace(run, iova=start, offset=run.offset + start - run.iova, size=end - start)
