"""MappingTable: the record of what an address space has mapped, as runs."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from pyvfio.dma.address_space import MappedRun
from pyvfio.dma.span_index import SpanIndex
from pyvfio.memory import DmaTarget

Span = tuple[int, int]
"""The first address of a range, and the one after its last."""

_START = attrgetter("iova")


class MappingTable:
    """Mapped runs in ascending order, none of which overlap. It holds the memory of each run, as a MemoryUser.

    An address space enters what it is going to map before it asks the kernel, and takes out what it has unmapped when
    the kernel has confirmed it, so that the table has all that the kernel has at any moment. In between the range is
    in doubt, and it stays so if the call ends early.

    An exception may come at any bytecode. The list of runs is the record, and each change of it is one step of the
    interpreter; the index beside it is made anew after a change that did not come to its end.

    One thread at a time changes it, under the lock of its address space; any thread may ask. Its own lock comes after
    that of the memory.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: list[MappedRun] = []
        self._doubts: tuple[Span, ...] = ()
        self._unplaced: tuple[MappedRun, Callable[[], int]] | None = None
        # What may be held: entered before, and taken out after.
        self._held: dict[DmaTarget, None] = {}
        # The index: how many mappings there are, and where of each memory.
        self._is_index_old = False
        self._count = 0
        self._places: dict[DmaTarget, _Places] = {}

    @property
    def count(self) -> int:
        """How many mappings the runs have."""
        with self._lock:
            self._mend()
            return self._count

    def runs(self) -> tuple[MappedRun, ...]:
        """Every run, ascending."""
        with self._lock:
            self._mend()
            return tuple(self._runs)

    def overlapping(self, iova: int, size: int) -> MappedRun | None:
        """The first run with a byte in the range; None if there is none."""
        runs = self._touching(iova, size)
        return runs[0] if runs else None

    def covered(self, iova: int, size: int) -> int:
        """How many bytes of the range are mapped."""
        end = iova + size
        return sum([min(run.end, end) - max(run.iova, iova) for run in self._touching(iova, size)])

    def parts(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """The part of each run that lies in the range, ascending."""
        return tuple(run.part(max(run.iova, iova), min(run.end, iova + size)) for run in self._touching(iova, size))

    def bisected(self, iova: int, size: int) -> MappedRun | None:
        """A run with a mapping that reaches over an end of the range; None if there is none."""
        runs = self._touching(iova, size)
        cut = [run for run in runs[:1] if not _boundary(run, iova)]
        cut += [run for run in runs[-1:] if not _boundary(run, iova + size)]
        return cut[0] if cut else None

    def iova_of(self, memory: DmaTarget, offset: int, size: int) -> int | None:
        """An address at which devices reach some of these bytes, the first that is mapped there; None if none is."""
        with self._lock:
            self._mend()
            places = self._places.get(memory)
            for iova in places.near(offset, size) if places else ():
                for run in self._touching(iova, size):
                    if run.memory is memory and run.offset < offset + size and offset < run.offset + run.size:
                        return run.iova + max(offset - run.offset, 0)
        return None

    # What may be in the kernel or not.

    def doubt(self, iova: int, size: int) -> None:
        """The kernel is about to be asked to change the range."""
        span = (iova, iova + size)
        near = [other for other in self._doubts if other[0] <= span[1] and span[0] <= other[1]]
        if near:
            # One span for all that touch: what stays in doubt for long is asked about often.
            span = (min(span[0], near[0][0]), max(span[1], near[-1][1]))
        self._doubts = tuple(sorted([*(other for other in self._doubts if other not in near), span]))

    def trust(self, iova: int, size: int) -> None:
        """The kernel has confirmed what the runs say of the range."""
        end = iova + size
        if self._doubts == ((iova, end),):
            self._doubts = ()
            return
        kept: list[Span] = []
        for start, stop in self._doubts:
            kept += [part for part in ((start, min(stop, iova)), (max(start, end), stop)) if part[0] < part[1]]
        self._doubts = tuple(kept)

    def doubted(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """The parts of runs within the range that are in doubt, ascending."""
        spans = [(max(start, iova), min(stop, iova + size)) for start, stop in self._doubts]
        return tuple(part for start, stop in spans if start < stop for part in self.parts(start, stop - start))

    # Changes.

    def enter(self, *runs: MappedRun) -> None:
        """Add runs that overlap none, in doubt. Raises ClosedError if memory is closed: the caller takes them out."""
        for run in runs:
            self.doubt(run.iova, run.size)
            self.add(run)

    def add(self, run: MappedRun) -> None:
        """Add a run that overlaps none. Raises ClosedError if its memory is closed.

        It waits for who discards the memory's pages, or closes it: so what is mapped afterwards is not discarded, nor
        its pages given back.
        """
        with run.memory.lock:
            self._hold(run.memory)
            with self._lock:
                self._mend()
                self._insert(run)

    def await_place(self, run: MappedRun, place: Callable[[], int]) -> None:
        """Hold the memory of a run whose address the kernel chooses. The caller has the memory's lock until then.

        place: the address; 0 as long as the kernel has chosen none. From then on the run is in the table.
        """
        self._hold(run.memory)
        self._unplaced = run, place

    def placed(self) -> None:
        """The kernel has answered, or the call was broken off: it chooses no address any more."""
        with self._lock:
            self._mend()
            self._unplaced = None
        self._release_unused()

    def put(self, iova: int, size: int, *runs: MappedRun) -> None:
        """Have runs, which lie in the range, in place of what does, which is not cut. Raises ClosedError."""
        for run in runs:
            self._hold(run.memory)
        with self._lock:
            self._mend()
            first, last = self._span(iova, size)
            self._change(first, last, _outside(self._runs[first:last], iova, iova + size, *runs))
        self._release_unused()

    def remove(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """Take out what lies in the range, which cuts no mapping; return it. Nothing of it is in doubt any more."""
        with self._lock:
            self._mend()
            first, last = self._span(iova, size)
            runs, end = self._runs[first:last], iova + size
            self._change(first, last, _outside(runs, iova, end))
            self.trust(iova, size)
        if len(self._held) != len(self._places):
            self._release_unused()
        return tuple(run.part(max(run.iova, iova), min(run.end, end)) for run in runs)

    def clear(self) -> None:
        """Take out everything."""
        with self._lock:
            self._unplaced = None
            self._change(0, len(self._runs), [])
        self._doubts = ()
        self._release_unused()

    def _hold(self, memory: DmaTarget) -> None:
        if memory not in self._held:
            memory.require_open()
            self._held[memory] = None
        memory.hold(self)

    def _release_unused(self) -> None:
        """Release memory with nothing mapped of it. Without the table's lock: memory's comes before."""
        with self._lock:
            self._mend()
            unplaced = self._unplaced[0].memory if self._unplaced is not None else None
            unused = [memory for memory in self._held if memory not in self._places and memory is not unplaced]
        for memory in unused:
            memory.release(self)
            del self._held[memory]

    def _insert(self, run: MappedRun) -> None:
        """Add a run, joined with those beside it that it can be one with."""
        first = last = bisect_left(self._runs, run.iova, key=_START)
        joined = run
        if last < len(self._runs) and _joins(run, self._runs[last]):
            joined = replace(joined, size=joined.size + self._runs[last].size)
            last += 1
        if first and _joins(self._runs[first - 1], joined):
            first -= 1
            joined = replace(self._runs[first], size=self._runs[first].size + joined.size)
        self._change(first, last, [joined])

    def _change(self, first: int, last: int, runs: Sequence[MappedRun]) -> None:
        """Have runs in place of those from index first up to last."""
        before = self._runs[first:last]
        is_index_good = not self._is_index_old
        self._is_index_old = True
        self._runs[first:last] = runs
        if is_index_good:
            # In this order: a run may take its own place.
            self._count_in(before, -1)
            self._count_in(runs, 1)
            self._is_index_old = False

    def _count_in(self, runs: Iterable[MappedRun], sign: int) -> None:
        """Bring the index up to date with runs that were added (sign 1) or taken out (-1)."""
        for run in runs:
            self._count += sign * run.mappings
            places = self._places.get(run.memory)
            if places is None:
                places = self._places[run.memory] = _Places()
            places.count_in(run, sign)
            if not places:
                del self._places[run.memory]

    def _mend(self) -> None:
        """Finish what an exception has broken off. With the lock held."""
        if self._is_index_old:
            self._count, self._places = 0, {}
            self._count_in(self._runs, 1)
            self._is_index_old = False
        if self._unplaced is not None:
            run, place = self._unplaced
            iova = place()
            if iova:
                # A second time if the first one was broken off: it is there then.
                if not self._is_there(iova):
                    self._insert(replace(run, iova=iova))
                self._unplaced = None

    def _is_there(self, iova: int) -> bool:
        first, last = self._span(iova, 1)
        return first < last

    def _touching(self, iova: int, size: int) -> list[MappedRun]:
        """The runs with a byte in the range, ascending."""
        with self._lock:
            self._mend()
            first, last = self._span(iova, size)
            return self._runs[first:last]

    def _span(self, iova: int, size: int) -> Span:
        """The indexes of the first run in the range and of the first one behind it."""
        first = bisect_left(self._runs, iova, key=_START)
        if first and self._runs[first - 1].end > iova:
            first -= 1
        return first, bisect_left(self._runs, iova + size, lo=first, key=_START)


class _Places:
    """At which addresses bytes of one memory are mapped. It is true as long as there are any."""

    def __init__(self) -> None:
        # Runs of many mappings grow and shrink. Those of one distance from offset to iova ascend alike in both, and
        # there are few distances. Of single mappings there may be as many as there are mappings.
        self._distances: dict[int, int] = {}
        self._singles = SpanIndex()

    def __bool__(self) -> bool:
        return bool(self._distances or self._singles)

    def count_in(self, run: MappedRun, sign: int) -> None:
        """Count a run that was added (sign 1) or taken out (-1)."""
        if run.granularity is None:
            change = self._singles.add if sign > 0 else self._singles.remove
            change(run.offset, run.size, run.iova)
            return
        distance = run.iova - run.offset
        size = self._distances.get(distance, 0) + sign * run.size
        if size:
            self._distances[distance] = size
        else:
            self._distances.pop(distance, None)

    def near(self, offset: int, size: int) -> list[int]:
        """Addresses to look at, over size bytes, for mappings of these bytes of the memory."""
        return [*(offset + distance for distance in self._distances), *sorted(self._singles.near(offset, size))]


def _outside(runs: Sequence[MappedRun], iova: int, end: int, *between: MappedRun) -> list[MappedRun]:
    """What of runs lies before iova, then what is between, then what of them lies from end on."""
    before = [run.part(run.iova, min(run.end, iova)) for run in runs if run.iova < iova]
    return [*before, *between, *(run.part(max(run.iova, end), run.end) for run in runs if run.end > end)]


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
