"""Bitmaps of dirty pages: put together, and taken apart into runs, by bytes."""

from __future__ import annotations

import random

import pytest

from pyvfio import DirtyBitmap, IovaRange
from pyvfio.dma.bits import JoinedBits
from tests.support.operations import lines_run

PAGE = 4096
CHUNK = 2048 * 8
"""The pages whose bits are compared at once."""


def runs_bit_by_bit(bits: int) -> list[tuple[int, int]]:
    """The first and the last of each run of ones, slowly."""
    found: list[tuple[int, int]] = []
    for page in range(bits.bit_length()):
        if bits >> page & 1:
            if found and found[-1][1] == page - 1:
                found[-1] = (found[-1][0], page)
            else:
                found.append((page, page))
    return found


@pytest.mark.parametrize(
    "pages",
    [
        [],
        [range(1)],
        [range(7, 8), range(9, 16), range(17, 18)],
        [range(63, 65)],
        [range(CHUNK)],
        [range(CHUNK - 1, CHUNK + 1)],
        [range(CHUNK - 1), range(CHUNK, 2 * CHUNK), range(2 * CHUNK + 1, 3 * CHUNK + 1)],
        [range(3 * CHUNK)],
        [range(2 * CHUNK, 2 * CHUNK + 1)],
        [range(0, CHUNK // 8, 2)],
    ],
    ids=["none", "the first", "within bytes", "over words", "a chunk", "over chunks", "around chunks", "chunks",
         "behind clean chunks", "every second page"],
)  # fmt: skip
def test_runs_are_what_the_bits_say(pages: list[range]) -> None:
    bits = sum(1 << page for run in pages for page in run)
    runs = DirtyBitmap(PAGE, 4 * CHUNK * PAGE, PAGE, bits).runs()
    assert runs == tuple(
        IovaRange(PAGE + first * PAGE, PAGE + last * PAGE + PAGE - 1) for first, last in runs_bit_by_bit(bits)
    )


def test_runs_of_any_bits_are_what_the_bits_say() -> None:
    source = random.Random(1)
    for _ in range(50):
        bits = source.getrandbits(300) | source.getrandbits(300) << CHUNK - 150
        runs = DirtyBitmap(0, 2 * CHUNK, 1, bits).runs()
        assert [(run.start, run.last) for run in runs] == runs_bit_by_bit(bits)


def test_a_range_that_is_made_with_others_is_one_like_any() -> None:
    [run] = DirtyBitmap(0, PAGE, PAGE, 1).runs()
    assert {run: "found"}[IovaRange(0, PAGE - 1)] == "found"
    assert str(run) == str(IovaRange(0, PAGE - 1))
    with pytest.raises(AttributeError):
        run.start = 1  # type: ignore[misc]


@pytest.mark.parametrize("dirty", ["nothing", "all"])
def test_what_is_alike_is_passed_over(dirty: str) -> None:
    """64 GiB in 4 KiB pages: some lines of Python for 64 MiB, and none for a page."""
    pages = 1 << 24
    bits = 1 << pages - 1 if dirty == "nothing" else (1 << pages) - 1
    bitmap = DirtyBitmap(0, pages * PAGE, PAGE, bits)
    assert lines_run(bitmap.runs) < 5 * pages // CHUNK


def test_a_run_costs_the_same_among_many() -> None:
    """Lines for each stretch of a bitmap, not for each run in it."""
    few, many = (
        DirtyBitmap(0, CHUNK * PAGE, PAGE, sum(1 << page for page in range(0, CHUNK - 1, step))) for step in (4096, 2)
    )
    assert len(many.runs()) == 2048 * len(few.runs())
    each = (lines_run(many.runs) - lines_run(few.runs)) / len(many.runs())
    assert each < 12


class Moved(int):
    """The bits of a stretch, which count how far they are moved."""

    furthest = 0

    def __lshift__(self, places: int) -> int:
        Moved.furthest = max(Moved.furthest, places)
        return int(self) << places


def test_a_stretch_is_moved_to_its_place_and_nothing_with_it() -> None:
    """A shift by all the pages before would copy as many bytes, for each stretch anew."""
    Moved.furthest = 0
    joined, expected = JoinedBits(), 0
    source = random.Random(2)
    for first in range(3, 60_000, 61):
        bits = source.getrandbits(61)
        joined.add(first, Moved(bits))
        expected |= bits << first
    assert joined.number() == expected
    assert 0 < Moved.furthest < 8


def test_what_is_clean_takes_no_memory_however_large_the_range() -> None:
    joined = JoinedBits()
    joined.add(1 << 50, 0)
    joined.add(9, 1)
    assert joined.number() == 1 << 9
