"""Set operations on runs, against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virtiomem.device import BlockMap
from virtiomem.runs import Run, RunSet, intersect, subtract, union

UNITS = st.sets(st.integers(0, 40))


def runs(units: set[int]) -> list[Run]:
    return union(Run(unit, 1) for unit in units)


@given(UNITS, UNITS)
def test_set_operations(left: set[int], right: set[int]) -> None:
    assert intersect(runs(left), runs(right)) == runs(left & right)
    assert subtract(runs(left), runs(right)) == runs(left - right)
    assert union([*runs(left), *runs(right)]) == runs(left | right)


@given(UNITS, st.integers(0, 41), st.integers(0, 41))
def test_runs_of_a_block_map_are_maximal_and_clipped(plugged: set[int], start: int, end: int) -> None:
    blocks = BlockMap(41)
    for run in runs(plugged):
        blocks.plug(run)
    within = Run(min(start, end), abs(end - start))
    inside = set(range(within.start, within.end))
    assert list(blocks.plugged_runs(within)) == runs(plugged & inside)
    assert list(blocks.unplugged_runs(within)) == runs(inside - plugged)
    assert blocks.all_plugged(within) == (inside <= plugged)
    assert blocks.all_unplugged(within) == (not inside & plugged)
    assert blocks.plugged == len(plugged)


SPANS = st.builds(lambda start, size: Run(start, size), st.integers(0, 40), st.integers(0, 12))


@given(st.lists(st.tuples(st.booleans(), SPANS), max_size=12), SPANS)
def test_a_set_that_changes(changes: list[tuple[bool, Run]], within: Run) -> None:
    known, expected = RunSet(), set[int]()
    for adds, run in changes:
        units = set(range(run.start, run.end))
        if adds:
            known.add(run)
            expected |= units
        else:
            known.remove(run)
            expected -= units
        assert list(known) == runs(expected)
    inside = expected & set(range(within.start, within.end))
    assert known.overlap(within) == runs(inside)
    assert (len(known), known.first) == (len(runs(expected)), runs(expected)[0] if expected else None)
    assert list(RunSet(run for _, run in changes)) == union(run for _, run in changes)
    known.clear()
    assert not known
