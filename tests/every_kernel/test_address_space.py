"""An address space maps, refuses and unmaps: the same tests for every kind of it."""

from __future__ import annotations

import errno

import pytest

from pyvfio import (
    Access,
    AlreadyMapped,
    Container,
    InvalidArgument,
    IommuType,
    IovaRange,
    Kernel,
    MappedRun,
    Memory,
    MemoryKind,
    NotMapped,
    OutsideIovaRanges,
    StillMapped,
)
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE

BLOCK = 2 * MEBIBYTE


def test_what_the_iommu_takes(space: Space, mode: Mode) -> None:
    assert space.page_sizes[0] == 4096
    assert (len(space.page_sizes) > 1) == mode.tells_all_page_sizes
    assert IovaRange(0, 0xFEDF_FFFF) in space.iova_ranges
    assert space.mappings_left == (65535 if mode.has_mapping_limit else None)


def test_type1v2_is_preferred(container: Container) -> None:
    assert container.iommu_type is IommuType.TYPE1v2


def test_one_mapping_for_each_block_and_one_unmap_for_all(space: Space, memory: Memory, mode: Mode) -> None:
    left = space.mappings_left
    space.map_dma(IOVA, memory, 0, memory.size, granularity=BLOCK)
    assert (space.calls.map, space.mapping_count) == (4, 4)
    assert space.mappings() == (MappedRun(IOVA, memory.size, memory, 0, Access.READ_WRITE, BLOCK),)
    assert not mode.has_mapping_limit or space.mappings_left == (left or 0) - 4
    assert space.unmap_dma(IOVA, memory.size) == memory.size
    assert space.calls.unmap == 1
    assert space.mappings() == ()
    assert space.mappings_left == left


def test_parts_end_at_multiples_of_the_granularity_in_the_memory(space: Space, memory: Memory) -> None:
    space.map_dma(IOVA, memory, MEBIBYTE, 4 * MEBIBYTE, granularity=BLOCK)
    assert space.mapping_count == 3
    assert space.unmap_dma(IOVA, MEBIBYTE) == MEBIBYTE
    assert space.unmap_dma(IOVA + MEBIBYTE, BLOCK) == BLOCK
    assert space.unmap_dma(IOVA + 3 * MEBIBYTE, MEBIBYTE) == MEBIBYTE


def test_unmap_never_splits_a_mapping(space: Space, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, BLOCK)
    with pytest.raises(NotMapped, match="it would cut a mapping"):
        space.unmap_dma(IOVA, MEBIBYTE)
    with pytest.raises(NotMapped, match="it would cut a mapping"):
        space.unmap_dma(IOVA + MEBIBYTE, BLOCK)
    assert space.mapping_count == 1
    assert space.unmap_dma(IOVA, BLOCK) == BLOCK


def test_unmap_spans_holes(space: Space, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, BLOCK)
    space.map_dma(IOVA + 2 * BLOCK, memory, 2 * BLOCK, BLOCK)
    assert space.unmap_dma(IOVA, 4 * BLOCK) == 2 * BLOCK


def test_nothing_to_unmap_is_an_error(space: Space) -> None:
    with pytest.raises(NotMapped, match="nothing is mapped there"):
        space.unmap_dma(IOVA, BLOCK)
    assert space.unmap_all() == 0


def test_unmap_all_is_one_call(space: Space, memory: Memory) -> None:
    for block in (0, 3, 1):
        space.map_dma(IOVA + 10 * block * BLOCK, memory, block * BLOCK, BLOCK)
    assert space.unmap_all() == 3 * BLOCK
    assert space.calls.unmap == 1


def test_overlap_is_refused_by_name(space: Space, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    with pytest.raises(AlreadyMapped, match=r"0x1_0000_0000-0x1_003f_ffff is mapped already") as caught:
        space.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
    assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize(("iova", "nearest"), [(0xFEE0_0000, "0xfef0_0000"), (0xFED0_0000, "0xfec0_0000")])
def test_reserved_addresses_are_refused_with_the_nearest_that_would_do(
    space: Space, memory: Memory, iova: int, nearest: str
) -> None:
    with pytest.raises(OutsideIovaRanges, match=f"the IOMMU translates only.*{nearest}"):
        space.map_dma(iova, memory, 0, BLOCK)


def test_addresses_beyond_the_last_are_refused(space: Space, memory: Memory) -> None:
    with pytest.raises(OutsideIovaRanges, match="the IOMMU translates only"):
        space.map_dma(space.iova_ranges[-1].last + 1, memory, 0, 4096)


@pytest.mark.parametrize(
    ("iova", "offset", "size", "granularity"),
    [
        (IOVA + 1, 0, BLOCK, None),
        (IOVA, 1, BLOCK, None),
        (IOVA, 0, BLOCK + 1, None),
        (IOVA, 0, 0, None),
        (IOVA, 0, -BLOCK, None),
        (IOVA, 0, 16 * MEBIBYTE, None),
        (IOVA, 8 * MEBIBYTE, BLOCK, None),
        (IOVA, -BLOCK, BLOCK, None),
        (IOVA, 0, BLOCK, 3 * 4096),
        (IOVA, 0, BLOCK, 2048),
    ],
)
def test_bad_arguments_are_refused_before_anything_changed(
    space: Space, memory: Memory, iova: int, offset: int, size: int, granularity: int | None
) -> None:
    with pytest.raises(InvalidArgument):
        space.map_dma(iova, memory, offset, size, granularity=granularity)
    assert space.calls.map == 0


def test_pinned_memory_is_charged_until_unmapped(space: Space, memory: Memory, mode: Mode, kernel: Kernel) -> None:
    before = mode.charged(kernel)
    space.map_dma(IOVA, memory, 0, BLOCK)
    space.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
    assert mode.charged(kernel) - before == 2 * BLOCK
    space.unmap_all()
    assert mode.charged(kernel) == before


def test_memory_stays_until_its_last_mapping_is_gone(space: Space, kernel: Kernel) -> None:
    memory = Memory.allocate(MemoryKind.ANONYMOUS, BLOCK, kernel=kernel)
    space.map_dma(IOVA, memory, 0, BLOCK)
    memory.close()
    assert memory.address
    space.unmap_dma(IOVA, BLOCK)
    assert not memory.address


def test_mapped_memory_is_not_discarded(space: Space, memory: Memory) -> None:
    space.map_dma(IOVA, memory, BLOCK, BLOCK)
    with pytest.raises(StillMapped, match="iova 0x1_0000_0000"):
        memory.discard(0, 2 * BLOCK)
    memory.discard(0, BLOCK)
    space.unmap_all()
    memory.discard(0, 2 * BLOCK)


def test_closing_leaves_nothing_pinned(space: Space, memory: Memory, mode: Mode, kernel: Kernel) -> None:
    before = mode.charged(kernel)
    space.map_dma(IOVA, memory, 0, memory.size, granularity=BLOCK)
    space.close()
    space.close()
    assert space.closed
    assert mode.charged(kernel) == before
    with pytest.raises(OSError, match="it is closed"):
        space.map_dma(IOVA, memory, 0, BLOCK)
