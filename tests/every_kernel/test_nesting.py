"""Page tables of a program's own over those of iommufd, and devices attached by PASID."""

from __future__ import annotations

import errno

import pytest

from pyvfio import (
    HwPageTable,
    InvalidArgument,
    InvalidationRefused,
    Ioas,
    Memory,
    RawData,
    VfioError,
)
from pyvfio.drivers.iommufd_mock import MockDevice, MockDeviceFlags, MockInvalidation, MockStage1
from tests.support.kernels.testbed import MOCK_IOVA

pytestmark = pytest.mark.needs("iommufd-test")

PAGE = 4096
FIRST = 0x1234_5678
PASID = 7


@pytest.fixture
def parent(mock_ioas: Ioas, mock_device: MockDevice) -> HwPageTable:
    return mock_ioas.page_table(mock_device, nest_parent=True)


def test_what_is_changed_in_a_nested_page_table_is_invalidated(parent: HwPageTable, mock_device: MockDevice) -> None:
    with parent.nested(mock_device, MockStage1(FIRST)) as nested:
        mock_device.attach(nested)
        assert {mock_device.attached} == {nested}
        assert all(mock_device.holds(nested, entry, FIRST) for entry in range(4))
        nested.invalidate([MockInvalidation(1), MockInvalidation(3)])
        assert [mock_device.holds(nested, entry, FIRST) for entry in range(4)] == [True, False, True, False]
        assert mock_device.holds(nested, 1, 0)
        nested.invalidate([])
        nested.invalidate([MockInvalidation()])
        assert all(mock_device.holds(nested, entry, 0) for entry in range(4))
    assert mock_device.attached is parent.ioas


def test_requests_before_one_that_is_refused_are_carried_out(parent: HwPageTable, mock_device: MockDevice) -> None:
    nested = parent.nested(mock_device, MockStage1(FIRST))
    with pytest.raises(InvalidationRefused, match="request 3 of 4") as caught:
        nested.invalidate([MockInvalidation(entry) for entry in (0, 1, 4, 2)])
    assert (caught.value.errno, caught.value.done) == (errno.EINVAL, 2)
    assert [mock_device.holds(nested, entry, 0) for entry in range(4)] == [True, True, False, False]
    unknown = RawData(MockInvalidation.type, (1 << 4).to_bytes(4, "little") + bytes(4))
    with pytest.raises(InvalidationRefused, match="does not know the request") as caught:
        nested.invalidate([unknown])
    assert (caught.value.errno, caught.value.done) == (errno.EOPNOTSUPP, 0)
    with pytest.raises(InvalidArgument, match="several types"):
        nested.invalidate([MockInvalidation(2), RawData(1, bytes(8))])
    assert not mock_device.holds(nested, 2, 0)


def test_nesting_needs_a_parent_made_for_it(mock_ioas: Ioas, mock_device: MockDevice) -> None:
    with mock_ioas.page_table(mock_device) as plain, pytest.raises(VfioError, match="not made to nest on") as caught:
        plain.nested(mock_device, MockStage1())
    assert caught.value.errno == errno.EINVAL
    with mock_ioas.page_table(mock_device, nest_parent=True) as parent:
        with pytest.raises(VfioError, match="nests no page table described like this") as caught:
            parent.nested(mock_device, RawData(1, bytes(24)))
        assert caught.value.errno == errno.EOPNOTSUPP
        parent.nested(mock_device, MockStage1())
        with pytest.raises(VfioError, match="still uses it") as caught:
            mock_ioas.iommufd.destroy(parent.id, parent.name)
        assert caught.value.errno == errno.EBUSY


def test_hardware_is_asked_for_by_type(mock_device: MockDevice) -> None:
    info = mock_device.hardware_info()
    assert info.data == bytes(4) + b"\xef\xbe\xad\xde"
    assert mock_device.hardware_info(info.type) == info
    with pytest.raises(VfioError, match="has no such struct") as caught:
        mock_device.hardware_info(1)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_a_page_table_that_its_driver_is_told_of(mock_ioas: Ioas, mock_device: MockDevice) -> None:
    with mock_ioas.page_table(mock_device, data=MockStage1()) as table:
        mock_device.attach(table)
        assert mock_device.attached is table
    with pytest.raises(VfioError, match="has no such page table"):
        mock_ioas.page_table(mock_device, data=RawData(MockStage1.type, bytes(4) + b"\x09\0\0\0"))


def test_a_device_has_an_address_space_for_each_pasid(mock_ioas: Ioas, mock_memory: Memory) -> None:
    device = MockDevice(mock_ioas, MockDeviceFlags.PASID)
    assert device.hardware_info().max_pasid_log2 == 20
    other = Ioas(mock_ioas.iommufd)
    other.map_dma(MOCK_IOVA, mock_memory, 0, PAGE)
    plain = mock_ioas.page_table(device, pasid=True)
    first, second = (other.page_table(device, pasid=True) for _ in range(2))
    device.attach(plain)
    device.attach(first, pasid=PASID)
    assert dict(device.pasids) == {PASID: first}
    device.attach(second, pasid=PASID)
    device.attach(first, pasid=PASID + 1)
    assert (device.attached, dict(device.pasids)) == (plain, {PASID: second, PASID + 1: first})
    second.close()
    assert dict(device.pasids) == {PASID + 1: first}
    device.detach(pasid=PASID + 1)
    device.detach(pasid=PASID + 1)
    assert (device.attached, dict(device.pasids)) == (plain, {})
    device.attach(first, pasid=PASID)
    other.close()
    assert dict(device.pasids) == {}


def test_a_pasid_needs_page_tables_made_for_it(mock_ioas: Ioas) -> None:
    device = MockDevice(mock_ioas, MockDeviceFlags.PASID)
    table = mock_ioas.page_table(device, pasid=True)
    with pytest.raises(VfioError, match="takes none") as caught:
        # The device itself is attached to one that is not.
        device.attach(table, pasid=PASID)
    assert caught.value.errno == errno.EINVAL
    device.attach(table)
    with pytest.raises(VfioError, match="takes none"):
        device.attach(mock_ioas, pasid=PASID)
    for pasid in (0, 1 << 20):
        with pytest.raises(InvalidArgument, match="from 1 to 0xfffff"):
            device.attach(table, pasid=pasid)
    device.attach(table, pasid=PASID)
    with pytest.raises(VfioError):
        device.attach(mock_ioas)
    assert (device.attached, dict(device.pasids)) == (table, {PASID: table})
