"""Which pages a device has written."""

from __future__ import annotations

import pytest

from pyvfio import (
    Access,
    Container,
    DirtyBitmap,
    InvalidArgument,
    Ioas,
    IovaRange,
    Kernel,
    Memory,
    MemoryKind,
    NotMapped,
    VfioError,
)
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.sim import SimKernel
from tests.kernel.conftest import IOVA, MEBIBYTE
from tests.kernel.modes import Mode, Space

PAGE = 4096
BLOCK = 2 * MEBIBYTE


def test_all_that_is_mapped_is_dirty_without_hardware(container: Container, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    container.map_dma(IOVA + 3 * BLOCK, memory, 2 * BLOCK, 16 * PAGE)
    with container.track_dirty() as tracking:
        for _ in range(2):
            bitmap = tracking.read(IOVA - 16 * PAGE, 4 * BLOCK)
            assert bitmap.runs() == (
                IovaRange(IOVA, IOVA + 2 * BLOCK - 1),
                IovaRange(IOVA + 3 * BLOCK, IOVA + 3 * BLOCK + 16 * PAGE - 1),
            )
            assert bitmap.dirty_bytes == 2 * BLOCK + 16 * PAGE
        # Bits beyond the range that are left over from reading it with what lies before are not told.
        assert tracking.read(IOVA + 3 * BLOCK, 16 * PAGE).bits == 0xFFFF
        assert tracking.read(IOVA + 5 * BLOCK, BLOCK).bits == 0


def test_unmapping_tells_what_was_dirty(container: Container, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    with container.track_dirty() as tracking:
        assert tracking.unmap(IOVA, BLOCK).dirty_bytes == BLOCK
        assert container.mapping_count == 1
        with pytest.raises(NotMapped):
            tracking.unmap(IOVA, BLOCK)
        assert tracking.unmap(IOVA - BLOCK, 4 * BLOCK).dirty_bytes == BLOCK
    assert container.mappings() == ()


def test_a_read_cuts_no_mapping(container: Container, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    with container.track_dirty() as tracking:
        with pytest.raises(NotMapped, match="it would cut a mapping"):
            tracking.read(IOVA, MEBIBYTE)
        with pytest.raises(InvalidArgument):
            tracking.read(IOVA + 1, BLOCK)
    with pytest.raises(VfioError, match="it is closed"):
        tracking.read(IOVA, BLOCK)


def test_where_there_is_no_dirty_tracking(space: Space, mode: Mode) -> None:
    if isinstance(space, Ioas) or mode.tracks_dirty_pages:
        return
    with pytest.raises(VfioError, match="has no dirty tracking"):
        space.track_dirty()


def test_an_iommu_that_tracks_tells_what_was_written() -> None:
    kernel: Kernel = SimKernel.with_edu_devices(1, iommu_tracks_dirty=True)
    with Ioas(kernel=kernel) as ioas, Memory.allocate(MemoryKind.ANONYMOUS, 2 * BLOCK, kernel=kernel) as memory:
        device = ioas.open_device(edu_addresses(kernel)[0])
        ioas.map_dma(IOVA, memory, 0, BLOCK)
        ioas.map_dma(IOVA + 2 * BLOCK, memory, BLOCK, BLOCK, Access.READ)
        table = ioas.page_table(device, dirty_tracking=True)
        device.attach(table)
        with table.track_dirty() as tracking, Edu(device) as edu:
            assert tracking.read(IOVA, 3 * BLOCK).bits == 0
            edu.fetch(IOVA + 3 * PAGE, PAGE // 2)
            edu.store(IOVA + 5 * PAGE - 8, 16)
            edu.store(IOVA + 8 * PAGE, 16)
            bitmap = tracking.read(IOVA, 3 * BLOCK)
            assert bitmap.runs() == (
                IovaRange(IOVA + 4 * PAGE, IOVA + 6 * PAGE - 1),
                IovaRange(IOVA + 8 * PAGE, IOVA + 9 * PAGE - 1),
            )
            assert [bitmap.is_dirty(IOVA + page * PAGE) for page in (3, 4, 7, 8)] == [False, True, False, True]
            assert tracking.read(IOVA, 3 * BLOCK) == DirtyBitmap(IOVA, 3 * BLOCK, PAGE, 0)
