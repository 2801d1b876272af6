"""Which pages a device has written."""

from __future__ import annotations

import errno

import pytest

from pyvfio import (
    Access,
    Container,
    DirtyBitmap,
    HardwareCapabilities,
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
from pyvfio.drivers.iommufd_mock import MockDevice, MockDeviceFlags
from pyvfio.sim import SimKernel
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, MOCK_IOVA

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
    kernel: Kernel = SimKernel(edu_devices=1, iommu_tracks_dirty=True)
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


@pytest.mark.needs("iommufd-test")
def test_a_page_table_notes_what_a_device_writes(mock_ioas: Ioas, mock_device: MockDevice, mock_memory: Memory) -> None:
    # A large page is dirty as a whole.
    mock_ioas.huge_pages = False
    mock_ioas.map_dma(MOCK_IOVA, mock_memory, 0, 16 * PAGE)
    mock_ioas.map_dma(MOCK_IOVA + 64 * PAGE, mock_memory, 16 * PAGE, PAGE)
    with mock_ioas.page_table(mock_device, dirty_tracking=True) as table:
        mock_device.attach(table)
        assert mock_device.reaches(table, MOCK_IOVA, mock_memory, 0, 16 * PAGE)
        with table.track_dirty() as tracking:
            assert mock_device.mark_dirty(table, MOCK_IOVA, PAGE, 1 << 70 | 1 << 64 | 0b1010) == 4
            written = tracking.peek(MOCK_IOVA, 100 * PAGE)
            # Page 70 is not mapped.
            assert written.bits == 1 << 64 | 0b1010
            assert tracking.read(MOCK_IOVA, 100 * PAGE) == written
            assert tracking.read(MOCK_IOVA, 100 * PAGE).bits == 0
            mock_device.mark_dirty(table, MOCK_IOVA, PAGE, 1)
            mock_ioas.unmap_dma(MOCK_IOVA, 16 * PAGE)
            mock_ioas.map_dma(MOCK_IOVA, mock_memory, 0, 16 * PAGE)
            assert tracking.read(MOCK_IOVA, 16 * PAGE).bits == 0
            mock_device.mark_dirty(table, MOCK_IOVA, PAGE, 1)
        with table.track_dirty() as tracking:
            assert tracking.read(MOCK_IOVA, 16 * PAGE).bits == 0
        with pytest.raises(VfioError):
            mock_device.mark_dirty(table, MOCK_IOVA, PAGE, 1)
    assert mock_device.attached is mock_ioas


@pytest.mark.needs("iommufd-test")
def test_an_iommu_without_dirty_bits_refuses_to_track(mock_ioas: Ioas, mock_device: MockDevice) -> None:
    blind = MockDevice(mock_ioas, MockDeviceFlags.NO_DIRTY)
    assert HardwareCapabilities.DIRTY_TRACKING in mock_device.hardware_info().capabilities
    assert HardwareCapabilities.DIRTY_TRACKING not in blind.hardware_info().capabilities
    with pytest.raises(VfioError, match="has no such page table") as caught:
        mock_ioas.page_table(blind, dirty_tracking=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    with mock_ioas.page_table(mock_device, dirty_tracking=True) as table:
        with pytest.raises(VfioError, match="of another kind of IOMMU"):
            blind.attach(table)
        assert blind.attached is mock_ioas
