"""IovaAllocator against a set of pages."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio import InvalidArgument, IovaRange, OutsideIovaRanges
from pyvfio.dma import Fit, IovaAllocator

PAGE = 4096
RANGES = (IovaRange(0, 20 * PAGE - 1), IovaRange(24 * PAGE + 1, 61 * PAGE - 2))
USABLE = {*range(20), *range(25, 60)}


def pages(iova: int, size: int) -> set[int]:
    return set(range(iova // PAGE, (iova + size) // PAGE))


@given(
    st.sampled_from(Fit),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["allocate", "reserve", "free"]), st.integers(0, 63), st.integers(1, 12))),
)
def test_like_a_set_of_pages(fit: Fit, allow_zero: bool, steps: list[tuple[str, int, int]]) -> None:
    allocator = IovaAllocator(RANGES, fit=fit, allow_zero=allow_zero)
    free, taken = set(USABLE), dict[int, int]()
    for step, number, count in steps:
        size = count * PAGE
        match step:
            case "allocate":
                alignment = PAGE << number % 4
                lowest = 0 if allow_zero else 1
                starts = [
                    at for at in range(lowest, 64) if at * PAGE % alignment == 0 and set(range(at, at + count)) <= free
                ]
                if not starts:
                    with pytest.raises(OutsideIovaRanges, match="no hole has room"):
                        allocator.allocate(size, alignment=alignment)
                    continue
                iova = allocator.allocate(size, alignment=alignment)
                assert iova // PAGE in starts
                assert fit is Fit.BEST or iova // PAGE == starts[0]
                free -= pages(iova, size)
                taken[iova] = size
            case "reserve":
                iova = number * PAGE
                if pages(iova, size) <= free:
                    allocator.reserve(iova, size)
                    free -= pages(iova, size)
                    taken[iova] = size
                else:
                    with pytest.raises(OutsideIovaRanges):
                        allocator.reserve(iova, size)
            case _ if taken:
                iova = sorted(taken)[number % len(taken)]
                assert allocator.free(iova) == taken[iova]
                free |= pages(iova, taken.pop(iova))
        assert allocator.free_bytes == len(free) * PAGE
    for iova in taken:
        allocator.free(iova)
    assert allocator.free_bytes == len(USABLE) * PAGE
    assert allocator.largest_hole == 35 * PAGE


def test_the_best_fit_is_the_smallest_hole() -> None:
    allocator = IovaAllocator([IovaRange(0, 8 * PAGE - 1), IovaRange(16 * PAGE, 18 * PAGE - 1)], fit=Fit.BEST)
    assert allocator.allocate(2 * PAGE) == 16 * PAGE
    assert allocator.allocate(2 * PAGE) == PAGE


def test_the_first_address_is_not_0() -> None:
    """Many devices take it for no address."""
    assert IovaAllocator([IovaRange(0, 8 * PAGE - 1)]).allocate(PAGE) == PAGE
    assert IovaAllocator([IovaRange(0, 8 * PAGE - 1)]).allocate(PAGE, alignment=4 * PAGE) == 4 * PAGE
    assert IovaAllocator([IovaRange(0, 8 * PAGE - 1)], allow_zero=True).allocate(PAGE) == 0
    allocator = IovaAllocator([IovaRange(0, PAGE - 1)])
    with pytest.raises(OutsideIovaRanges, match="no hole has room"):
        allocator.allocate(PAGE)
    allocator.reserve(0, PAGE)
    assert allocator.free_bytes == 0


def test_what_was_freed_is_used_again() -> None:
    allocator = IovaAllocator([IovaRange(PAGE, 5 * PAGE - 1)])
    first = allocator.allocate(PAGE)
    allocator.allocate(3 * PAGE)
    with pytest.raises(OutsideIovaRanges, match="the largest hole has 0x0") as caught:
        allocator.allocate(PAGE)
    assert caught.value.errno == errno.ENOSPC
    allocator.free(first)
    assert allocator.allocate(PAGE) == first


@pytest.mark.parametrize(("size", "alignment"), [(0, None), (-PAGE, None), (100, None), (PAGE, 3 * PAGE), (PAGE, 2048)])
def test_what_cannot_be_asked_for(size: int, alignment: int | None) -> None:
    with pytest.raises(InvalidArgument):
        IovaAllocator(RANGES).allocate(size, alignment=alignment)


def test_only_what_is_taken_is_freed() -> None:
    allocator = IovaAllocator(RANGES)
    iova = allocator.allocate(2 * PAGE)
    for wrong in (iova + PAGE, 40 * PAGE):
        with pytest.raises(InvalidArgument, match="nothing that begins there"):
            allocator.free(wrong)
    allocator.free(iova)
    with pytest.raises(InvalidArgument):
        allocator.free(iova)


def test_the_last_page_of_all_can_be_had() -> None:
    allocator = IovaAllocator([IovaRange((1 << 64) - PAGE, (1 << 64) - 1)])
    assert allocator.allocate(PAGE) == (1 << 64) - PAGE
