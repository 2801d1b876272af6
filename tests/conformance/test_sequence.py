"""Random sequences: the same for a seed, alike on one kernel, and shrunk where two kernels differ."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.conformance.calls.container import map_dma, unmap_dma
from tests.conformance.machine import SimulatedMachine
from tests.conformance.sequence import CALLS_PER_SEQUENCE, compare, sequence, shrunk
from tests.conformance.step import Step


def test_a_seed_stands_for_one_sequence() -> None:
    assert sequence(7, 50) == sequence(7, 50) != sequence(8, 50)
    assert len(sequence(1, CALLS_PER_SEQUENCE)) == 200


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_kernel_agrees_with_itself(seed: int) -> None:
    machines = [SimulatedMachine((6, 12), "intel") for _ in range(2)]
    assert compare(seed, 100, *machines) == []


def test_a_disagreement_is_shrunk_to_the_calls_that_show_it() -> None:
    """6.18 tells of a range that wraps, where its predecessors only call it invalid."""
    lines = next(
        lines
        for seed in range(1, 20)
        if (lines := compare(seed, 100, SimulatedMachine((6, 12), "intel"), SimulatedMachine((6, 18), "intel")))
    )
    *_, last, real, simulated = lines
    assert len(lines) <= 10
    assert last.startswith(("map_dma(", "unmap_dma(", "unmap_dma_dirty(", "get_dirty_bitmap(", "check_extension("))
    assert real.removeprefix("real") != simulated.removeprefix("simulated")


def test_shrinking_keeps_every_call_that_is_needed() -> None:
    """The last call differs only after two others, wherever they stand."""
    steps = [map_dma(iova=number) for number in range(40)]
    needed = [steps[5], steps[21]]

    def differ(tried: Sequence[Step]) -> int | None:
        last = [number for number, step in enumerate(tried) if step == unmap_dma()]
        return last[0] if last and all(step in tried[: last[0]] for step in needed) else None

    assert shrunk([*steps, unmap_dma(), *steps], differ) == [*needed, unmap_dma()]
