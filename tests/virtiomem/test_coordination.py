"""Who may discard while who pins: QEMU's truth table, row by row."""

from __future__ import annotations

import pytest

from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeMemory
from virtiomem.device import VirtioMem
from virtiomem.discard import DiscardCoordination, DiscardRefused, DiscardUse

EXCLUDED = {
    (DiscardUse.DISABLE, DiscardUse.REQUIRE),
    (DiscardUse.DISABLE, DiscardUse.REQUIRE_COORDINATED),
    (DiscardUse.DISABLE_UNCOORDINATED, DiscardUse.REQUIRE),
}


@pytest.mark.parametrize("second", DiscardUse)
@pytest.mark.parametrize("first", DiscardUse)
def test_truth_table(first: DiscardUse, second: DiscardUse) -> None:
    coordination = DiscardCoordination()
    with coordination.hold(first, "the first"):
        if {(first, second), (second, first)} & EXCLUDED:
            with pytest.raises(DiscardRefused, match=r"the second needs .*: the first needs"):
                coordination.hold(second, "the second")
            assert coordination.holders(second) == ()
        else:
            with coordination.hold(second, "the second"):
                assert "the second" in coordination.holders(second)
    with coordination.hold(second, "the second"):
        assert coordination.holders(second) == ("the second",)


@pytest.mark.parametrize(
    ("use", "disabled", "required"),
    [
        (DiscardUse.DISABLE, True, False),
        (DiscardUse.DISABLE_UNCOORDINATED, True, False),
        (DiscardUse.REQUIRE, False, True),
        (DiscardUse.REQUIRE_COORDINATED, False, True),
    ],
)
def test_queries(use: DiscardUse, disabled: bool, required: bool) -> None:
    coordination = DiscardCoordination()
    with coordination.hold(use, "somebody"):
        assert (coordination.disabled, coordination.required) == (disabled, required)
    assert (coordination.disabled, coordination.required) == (False, False)


def test_claims_count() -> None:
    coordination = DiscardCoordination()
    first, second = (coordination.hold(DiscardUse.DISABLE, "vdpa") for _ in range(2))
    first.release()
    first.release()
    with pytest.raises(DiscardRefused):
        coordination.hold(DiscardUse.REQUIRE, "balloon")
    second.release()
    coordination.hold(DiscardUse.REQUIRE, "balloon").release()


def test_a_balloon_stays_empty_while_a_mapper_pins() -> None:
    coordination = DiscardCoordination()
    with coordination.hold(DiscardUse.DISABLE_UNCOORDINATED, "DMA mapper"):
        assert coordination.disabled
        with pytest.raises(DiscardRefused, match="DMA mapper"):
            coordination.hold(DiscardUse.REQUIRE, "balloon")


def test_virtio_mem_and_an_mlock_exclude_each_other() -> None:
    coordination = DiscardCoordination()
    with coordination.hold(DiscardUse.DISABLE, "mlock"), pytest.raises(DiscardRefused, match="mlock needs no discards"):
        VirtioMem(FakeMemory(), address=ADDRESS, block_size=BLOCK, coordination=coordination)
    with (
        VirtioMem(FakeMemory(), address=ADDRESS, block_size=BLOCK, coordination=coordination),
        pytest.raises(DiscardRefused, match="virtio-mem"),
    ):
        coordination.hold(DiscardUse.DISABLE, "mlock")
    coordination.hold(DiscardUse.DISABLE, "mlock").release()
