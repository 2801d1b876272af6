"""BlockMap."""

from __future__ import annotations

import pytest

from tests.support.operations import lines_run
from virtiomem.device import BlockMap
from virtiomem.runs import Run


def test_everything_is_unplugged_at_first() -> None:
    blocks = BlockMap(3)
    assert blocks.plugged == 0
    assert blocks.unplugged_runs() == (Run(0, 3),)
    assert blocks.plugged_runs() == ()


def test_plugging_counts_each_block_once() -> None:
    blocks = BlockMap(8)
    blocks.plug(Run(1, 3))
    blocks.plug(Run(2, 4))
    assert (blocks.plugged, blocks.is_plugged(5), blocks.is_plugged(6)) == (5, True, False)
    blocks.unplug(Run(0, 2))
    assert blocks.plugged_runs() == (Run(2, 4),)
    assert blocks.plugged == 4


@pytest.mark.parametrize("run", [Run(-1, 1), Run(0, 9), Run(8, 1), Run(9, 0), Run(3, -1)])
def test_a_run_outside_changes_nothing(run: Run) -> None:
    blocks = BlockMap(8)
    with pytest.raises(ValueError, match="not all among 0 to 7"):
        blocks.plug(run)
    assert blocks.plugged == 0


def test_a_mebi_of_blocks() -> None:
    blocks = BlockMap(1 << 20)
    for start in range(0, 1 << 17, 2):
        blocks.plug(Run(start, 1))
    assert len(blocks.plugged_runs()) == blocks.plugged == 1 << 16
    blocks.plug(Run(0, 1 << 20))
    assert blocks.plugged_runs() == (Run(0, 1 << 20),)


def test_runs_are_made_once_each_and_all_in_a_row() -> None:
    """A few lines for a run, and none of them in a constructor."""
    blocks = BlockMap(4096)
    for block in range(0, 4096, 2):
        blocks.plug(Run(block, 1))
    assert blocks.plugged_runs() == tuple(Run(block, 1) for block in range(0, 4096, 2))
    assert blocks.plugged_bytes(1 << 30, 1 << 21) == tuple(
        Run((1 << 30) + (block << 21), 1 << 21) for block in range(0, 4096, 2)
    )
    assert lines_run(blocks.plugged_runs) < 9 * 2048
    assert lines_run(lambda: blocks.plugged_bytes(1 << 30, 1 << 21)) < 11 * 2048
