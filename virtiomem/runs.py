"""Run: consecutive blocks or bytes; and the set operations on ascending runs that replace walks block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """size units from start; of blocks or of bytes, as its user says."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


# Every function takes and returns maximal runs: ascending, none empty, none touching the next.


def intersect(left: Sequence[Run], right: Sequence[Run]) -> list[Run]:
    """What lies in both."""
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
    """What lies in left and not in right."""
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
    """What lies in any of the runs, which may come in any order and overlap."""
    result: list[Run] = []
    for run in sorted(runs, key=lambda run: run.start):
        if result and run.start <= result[-1].end:
            last = result[-1]
            result[-1] = Run(last.start, max(last.end, run.end) - last.start)
        elif run.size:
            result.append(run)
    return result
