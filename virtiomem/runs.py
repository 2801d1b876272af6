"""Run: consecutive blocks or bytes; and operations on sets of them, which need no walk block by block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """size consecutive units from start: blocks or bytes, as whoever makes it says."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first unit after the run."""
        return self.start + self.size


# A set of units is a list of maximal runs: ascending, none empty, none touching the next. Every function returns such a
# list, and takes such lists unless it says otherwise.


def intersect(left: Sequence[Run], right: Sequence[Run]) -> list[Run]:
    """The units that are in both sets."""
    result: list[Run] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        start, end = max(a.start, b.start), min(a.end, b.end)
        if start < end:
            result.append(Run(start, end - start))
        if a.end <= b.end:
            i += 1
        else:
            j += 1
    return result


def subtract(left: Sequence[Run], right: Sequence[Run]) -> list[Run]:
    """The units that are in left and not in right."""
    result: list[Run] = []
    j = 0
    for run in left:
        start = run.start
        while j < len(right) and right[j].end <= start:
            j += 1
        k = j
        while k < len(right) and right[k].start < run.end:
            if start < right[k].start:
                result.append(Run(start, right[k].start - start))
            start = max(start, right[k].end)
            k += 1
        if start < run.end:
            result.append(Run(start, run.end - start))
    return result


def union(runs: Iterable[Run]) -> list[Run]:
    """The units that are in any of the runs, which may come in any order and overlap."""
    result: list[Run] = []
    for run in sorted(runs, key=lambda run: run.start):
        if result and run.start <= result[-1].end:
            last = result[-1]
            result[-1] = Run(last.start, max(last.end, run.end) - last.start)
        elif run.size:
            result.append(run)
    return result


def runs_of_bits(bits: int, count: int) -> list[Run]:
    """The set of units whose bit is set, of count units; bits has none behind these."""
    if not bits:
        return []
    digits = f"{bits:0{count}b}"[::-1]
    runs: list[Run] = []
    start = digits.find("1")
    while start >= 0:
        end = digits.find("0", start)
        end = count if end < 0 else end
        runs.append(Run(start, end - start))
        start = digits.find("1", end)
    return runs


class RunSet:
    """A set of units that changes. A change or a question costs what the runs it touches cost, not what all cost.

    Iterating gives its maximal runs, ascending, as the functions above take them.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Put the units of run into the set; some of them may be in it."""
        if run.size:
            # Those that touch run become one with it.
            first, last = bisect_left(self._ends, run.start), bisect_right(self._starts, run.end)
            start, end = run.start, run.end
            if first < last:
                start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
            self._starts[first:last], self._ends[first:last] = [start], [end]

    def remove(self, run: Run) -> None:
        """Take the units of run out of the set; some of them may not be in it."""
        first, last = self._touched(run)
        if first < last:
            before, after = self._starts[first], self._ends[last - 1]
            kept = [ends for ends in ((before, run.start), (run.end, after)) if ends[0] < ends[1]]
            self._starts[first:last] = [start for start, _ in kept]
            self._ends[first:last] = [end for _, end in kept]

    def overlap(self, run: Run) -> list[Run]:
        """The units of run that are in the set."""
        first, last = self._touched(run)
        return [
            Run(max(start, run.start), min(end, run.end) - max(start, run.start))
            for start, end in zip(self._starts[first:last], self._ends[first:last], strict=True)
        ]

    @property
    def first(self) -> Run | None:
        """The first run; None if the set is empty."""
        return Run(self._starts[0], self._ends[0] - self._starts[0]) if self._starts else None

    def clear(self) -> None:
        """Take every unit out."""
        self._starts.clear()
        self._ends.clear()

    def __iter__(self) -> Iterator[Run]:
        return iter([Run(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)])

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._starts)

    def _touched(self, run: Run) -> tuple[int, int]:
        """The indexes of the first run with a unit in run, and of the first one behind run."""
        if not run.size:
            return 0, 0
        return bisect_right(self._ends, run.start), bisect_left(self._starts, run.end)
