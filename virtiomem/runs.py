"""Run: consecutive blocks or bytes; and operations on sets of them, which need no walk block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
