"""Page faults of devices, answered by the program."""

from __future__ import annotations

import asyncio
import errno
import select
import threading
from collections.abc import Iterator

import pytest

from pyvfio import ClosedError, FaultPermission, FaultQueue, FaultResponse, Ioas, PageFault, VfioError
from pyvfio.drivers.iommufd_mock import MockDevice, MockDeviceFlags, MockStage1

pytestmark = pytest.mark.needs("iommufd-test")

PASID = 5


@pytest.fixture
def faults(mock_ioas: Ioas) -> Iterator[FaultQueue]:
    with FaultQueue(mock_ioas.iommufd) as faults:
        yield faults


@pytest.fixture
def device(mock_ioas: Ioas, mock_device: MockDevice, faults: FaultQueue) -> MockDevice:
    """Attached to a page table with faults."""
    mock_device.attach(mock_ioas.page_table(mock_device, faults=faults))
    return mock_device


def test_a_fault_is_read_and_answered(device: MockDevice, faults: FaultQueue) -> None:
    assert faults.pending() == faults.wait(0) == ()
    assert select.select([faults], [], [], 0) == ([], [], [])
    device.fault(0x8000_1000, FaultPermission.READ | FaultPermission.WRITE, group=3)
    device.fault(0x8000_2000, group=4)
    assert select.select([faults], [], [], 5) == ([faults], [], [])
    first, second = faults.pending()
    read_write = FaultPermission.READ | FaultPermission.WRITE
    assert first == PageFault(device.id, 0x8000_1000, read_write, None, 3, True, 0, first.cookie)
    assert (second.address, second.permission, second.group) == (0x8000_2000, FaultPermission.READ, 4)
    assert first.cookie != second.cookie
    assert faults.pending() == ()
    faults.respond(first, second)
    faults.respond()
    with pytest.raises(VfioError, match="answered already") as caught:
        faults.respond(first, response=FaultResponse.INVALID)
    assert caught.value.errno == errno.EINVAL


def test_answers_before_one_that_is_wrong_are_given(device: MockDevice, faults: FaultQueue) -> None:
    for page in range(3):
        device.fault(page << 12)
    first, second, third = faults.wait(5)
    faults.respond(second)
    with pytest.raises(VfioError, match="answered already"):
        faults.respond(first, second, third)
    with pytest.raises(VfioError, match="answered already"):
        faults.respond(first)
    faults.respond(third)


def test_faults_of_a_device_that_is_detached_are_answered_by_the_kernel(device: MockDevice, faults: FaultQueue) -> None:
    device.fault(0x1000)
    (told,) = faults.wait(5)
    device.fault(0x2000)
    device.detach()
    assert faults.pending() == ()
    with pytest.raises(VfioError, match="when its device was detached"):
        faults.respond(told)
    device.fault(0x3000)
    assert faults.pending() == ()


def test_faults_of_a_process_address_space(mock_ioas: Ioas, faults: FaultQueue) -> None:
    device = MockDevice(mock_ioas, MockDeviceFlags.PASID)
    device.attach(mock_ioas.page_table(device, pasid=True))
    device.attach(mock_ioas.page_table(device, pasid=True, faults=faults), pasid=PASID)
    device.fault(0x1000)
    device.fault(0x2000, pasid=PASID)
    device.fault(0x3000, pasid=PASID + 1)
    (fault,) = faults.wait(5)
    assert (fault.address, fault.pasid) == (0x2000, PASID)
    faults.respond(fault)


def test_a_nested_page_table_has_the_faults_of_every_pasid(mock_ioas: Ioas, faults: FaultQueue) -> None:
    device = MockDevice(mock_ioas)
    parent = mock_ioas.page_table(device, nest_parent=True)
    device.attach(parent.nested(device, MockStage1(), faults=faults))
    device.fault(0x1000, pasid=PASID)
    device.fault(0x2000)
    assert [(fault.address, fault.pasid) for fault in faults.wait(5)] == [(0x1000, PASID), (0x2000, None)]


def test_what_nests_takes_no_faults_itself(mock_ioas: Ioas, mock_device: MockDevice, faults: FaultQueue) -> None:
    with pytest.raises(VfioError, match="has no such page table") as caught:
        mock_ioas.page_table(mock_device, nest_parent=True, faults=faults)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_page_tables_go_before_their_faults(device: MockDevice, faults: FaultQueue) -> None:
    device.fault(0x1000)
    table = device.attached
    assert table is not None
    with pytest.raises(VfioError, match="still uses it"):
        faults.iommufd.destroy(faults.id, faults.name)
    faults.close()
    faults.close()
    assert table.closed
    with pytest.raises(ClosedError):
        faults.pending()


def test_closing_wakes_who_waits_for_a_fault(faults: FaultQueue) -> None:
    woken: list[BaseException] = []
    started = threading.Barrier(3)

    def wait() -> None:
        started.wait()
        with pytest.raises(ClosedError) as caught:
            faults.wait()
        woken.append(caught.value)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    started.wait()
    faults.close()
    for thread in threads:
        thread.join(10)
    assert len(woken) == 2


def test_a_task_waits_for_a_fault(device: MockDevice, faults: FaultQueue) -> None:
    async def wait() -> None:
        task = asyncio.create_task(faults.wait_async())
        await asyncio.sleep(0)
        device.fault(0x7000)
        (fault,) = await task
        assert fault.address == 0x7000
        task = asyncio.create_task(faults.wait_async())
        await asyncio.sleep(0)
        faults.close()
        with pytest.raises(ClosedError):
            await task

    asyncio.run(asyncio.wait_for(wait(), 10))
