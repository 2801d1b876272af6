"""Virtual IOMMUs: what a guest calls its devices, what it is told of them, and its queues."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import (
    HwPageTable,
    InvalidArgument,
    InvalidationRefused,
    Ioas,
    Memory,
    NotMapped,
    RawData,
    Register,
    Registers,
    VfioError,
    Viommu,
)
from pyvfio.abi import iommufd_test
from pyvfio.drivers.iommufd_mock import (
    EVENT_SIZE,
    EVENTS,
    QUEUES,
    MockCacheInvalidation,
    MockDevice,
    MockStage1,
    MockViommu,
)
from tests.support.kernels.testbed import MOCK_IOVA

pytestmark = pytest.mark.needs("iommufd-test")

PAGE = 4096
VIRTUAL_ID = 0x42


class Interface(Registers):
    word = Register(0, 32)


@pytest.fixture
def parent(mock_ioas: Ioas, mock_device: MockDevice) -> HwPageTable:
    return mock_ioas.page_table(mock_device, nest_parent=True)


@pytest.fixture
def viommu(parent: HwPageTable, mock_device: MockDevice) -> Iterator[Viommu]:
    with parent.viommu(mock_device, MockViommu(0xCAFE)) as viommu:
        yield viommu


def test_a_driver_tells_what_a_virtual_iommu_is(viommu: Viommu, parent: HwPageTable, mock_device: MockDevice) -> None:
    told = iommufd_test.iommu_viommu_selftest.from_buffer_copy(viommu.data)
    assert (told.in_data, told.out_data, told.out_mmap_length) == (0xCAFE, 0xCAFE, 2 * PAGE)
    with parent.viommu(mock_device, RawData(MockViommu.type)) as bare:
        assert bare.data == b""
    with pytest.raises(VfioError, match="has no virtual IOMMU of this type") as caught:
        parent.viommu(mock_device, RawData(1))
    assert caught.value.errno == errno.EOPNOTSUPP
    with parent.ioas.page_table(mock_device) as plain, pytest.raises(VfioError, match="not made to nest on"):
        plain.viommu(mock_device, MockViommu())
    with pytest.raises(VfioError, match="still uses it"):
        viommu.iommufd.destroy(parent.id, parent.name)


def test_pages_of_a_virtual_iommu_are_mapped(viommu: Viommu, parent: HwPageTable, mock_device: MockDevice) -> None:
    told = iommufd_test.iommu_viommu_selftest.from_buffer_copy(viommu.data)
    with viommu.map(told.out_mmap_offset, told.out_mmap_length) as pages:
        assert (pages.read_register(0, 4), pages.read_register(8, 8)) == (0xCAFE, 0)
        with pytest.raises(VfioError, match="still uses it"):
            viommu.iommufd.destroy(viommu.id, viommu.name)
        with viommu.map(told.out_mmap_offset, told.out_mmap_length) as again:
            again.write_register(PAGE, 8, 0x1234_5678_9ABC)
        assert pages.read_register(PAGE, 4) == 0x5678_9ABC
        assert Interface(pages).word == 0xCAFE
        for offset, width in ((2 * PAGE, 4), (2, 4), (-4, 4), (0, 3)):
            with pytest.raises(InvalidArgument, match="no register there"):
                pages.read_register(offset, width)
        with pytest.raises(InvalidArgument, match="too wide"):
            pages.write_register(0, 1, 256)
    for offset, size in ((told.out_mmap_offset, PAGE), (told.out_mmap_offset + PAGE, PAGE), (1 << 30, PAGE)):
        with pytest.raises(VfioError, match="has no such pages") as caught:
            viommu.map(offset, size)
        assert caught.value.errno == errno.ENXIO
    with pytest.raises(InvalidArgument, match="not whole pages"):
        viommu.map(told.out_mmap_offset, PAGE + 1)
    with parent.viommu(mock_device, MockViommu(7)) as other:
        elsewhere = iommufd_test.iommu_viommu_selftest.from_buffer_copy(other.data).out_mmap_offset
        assert elsewhere != told.out_mmap_offset
        assert other.map(elsewhere, 2 * PAGE).read_register(0, 4) == 7


def test_a_device_is_known_by_its_virtual_id(viommu: Viommu, mock_ioas: Ioas, mock_device: MockDevice) -> None:
    other = MockDevice(mock_ioas)
    vdevice = viommu.device(mock_device, VIRTUAL_ID)
    for device, virtual_id in ((mock_device, VIRTUAL_ID + 1), (other, VIRTUAL_ID)):
        with pytest.raises(VfioError, match="is in a virtual IOMMU already") as caught:
            viommu.device(device, virtual_id)
        assert caught.value.errno == errno.EEXIST
    vdevice.close()
    viommu.device(other, VIRTUAL_ID)
    other.close()
    viommu.device(mock_device, VIRTUAL_ID)


def test_caches_of_devices_are_invalidated_by_virtual_id(viommu: Viommu, mock_device: MockDevice) -> None:
    viommu.device(mock_device, VIRTUAL_ID)
    assert all(mock_device.caches(entry) for entry in range(4))
    viommu.invalidate([MockCacheInvalidation(VIRTUAL_ID, 2)])
    assert [mock_device.caches(entry) for entry in range(4)] == [True, True, False, True]
    with pytest.raises(InvalidationRefused, match="request 2 of 2") as caught:
        viommu.invalidate([MockCacheInvalidation(VIRTUAL_ID, 0), MockCacheInvalidation(VIRTUAL_ID + 1, 1)])
    assert caught.value.done == 1
    viommu.invalidate([MockCacheInvalidation(VIRTUAL_ID)])
    assert all(mock_device.caches(entry, 0) for entry in range(4))


def test_a_guests_page_table_is_for_its_devices(viommu: Viommu, mock_ioas: Ioas, mock_device: MockDevice) -> None:
    nested = viommu.nested(mock_device, MockStage1())
    with pytest.raises(VfioError, match="of a virtual IOMMU, in which the device is not") as caught:
        mock_device.attach(nested)
    assert caught.value.errno == errno.ENOENT
    viommu.device(mock_device, VIRTUAL_ID)
    mock_device.attach(nested)
    assert {mock_device.attached} == {nested}
    viommu.close()
    assert (nested.closed, mock_device.attached) == (True, mock_ioas)


def test_events_come_in_order_and_tell_what_was_lost(viommu: Viommu, mock_device: MockDevice) -> None:
    viommu.device(mock_device, VIRTUAL_ID)
    mock_device.attach(viommu.nested(mock_device, MockStage1()))
    with pytest.raises(VfioError):
        mock_device.event()
    with viommu.event_queue(EVENTS, 2, event_size=EVENT_SIZE) as events:
        assert events.wait(0) == ()
        mock_device.event()
        (event,) = events.wait(5)
        assert (event.sequence, event.data, event.are_lost) == (0, VIRTUAL_ID.to_bytes(4, "little"), False)
        for _ in range(4):
            mock_device.event()
        assert [(event.sequence, event.are_lost) for event in events.pending()] == [(1, False), (2, False), (4, True)]
        mock_device.event()
        assert [(event.sequence, event.are_lost) for event in events.pending()] == [(5, False)]
        with pytest.raises(VfioError, match="queue of this type already") as caught:
            viommu.event_queue(EVENTS, 2, event_size=EVENT_SIZE)
        assert caught.value.errno == errno.EEXIST
    with pytest.raises(VfioError, match="from 1 to 524288"):
        viommu.event_queue(EVENTS, 0, event_size=EVENT_SIZE)
    with pytest.raises(InvalidArgument, match="Give event_size"):
        viommu.event_queue(EVENTS, 2)


def test_memory_of_a_hardware_queue_stays_mapped(viommu: Viommu, mock_ioas: Ioas, mock_memory: Memory) -> None:
    with pytest.raises(NotMapped, match="does not map all of it"):
        viommu.hw_queue(QUEUES, 0, MOCK_IOVA, PAGE)
    mock_ioas.map_dma(MOCK_IOVA, mock_memory, 0, 4 * PAGE, granularity=PAGE)
    with pytest.raises(VfioError, match="queue before it is missing") as caught:
        viommu.hw_queue(QUEUES, 1, MOCK_IOVA, PAGE)
    assert caught.value.errno == errno.EIO
    first = viommu.hw_queue(QUEUES, 0, MOCK_IOVA, PAGE)
    second = viommu.hw_queue(QUEUES, 1, MOCK_IOVA + PAGE, 0x100)
    for index, code in ((1, errno.EEXIST), (2, errno.EINVAL)):
        with pytest.raises(VfioError) as caught:
            viommu.hw_queue(QUEUES, index, MOCK_IOVA, PAGE)
        assert caught.value.errno == code
    with pytest.raises(VfioError, match="has no queues of this type"):
        viommu.hw_queue(1, 0, MOCK_IOVA, PAGE)
    with pytest.raises(VfioError, match="still uses it"):
        viommu.iommufd.destroy(first.id, "it")
    with pytest.raises(VfioError) as caught:
        mock_ioas.unmap_dma(MOCK_IOVA + PAGE, PAGE)
    assert caught.value.errno == errno.EBUSY
    assert mock_ioas.unmap_dma(MOCK_IOVA + 2 * PAGE, 2 * PAGE) == 2 * PAGE
    second.close()
    first.close()
    assert mock_ioas.unmap_dma(MOCK_IOVA, 2 * PAGE) == 2 * PAGE


def test_a_guest_goes_with_the_iommufd(mock_ioas: Ioas, viommu: Viommu, mock_device: MockDevice) -> None:
    vdevice = viommu.device(mock_device, VIRTUAL_ID)
    events = viommu.event_queue(EVENTS, 2, event_size=EVENT_SIZE)
    mock_device.attach(viommu.nested(mock_device, MockStage1()))
    mock_ioas.iommufd.close()
    assert all(thing.closed for thing in (vdevice, events, viommu, mock_device, mock_ioas))
