"""Who owns what, and until when: with, close, fork, threads, descriptors that were open before."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable

import pytest

from pyvfio import (
    CdevDevice,
    ClosedError,
    Container,
    Device,
    DeviceBusy,
    FaultQueue,
    Group,
    InterruptIndex,
    Ioas,
    Iommufd,
    IommuType,
    Kernel,
    Memory,
    VfioError,
)
from pyvfio.drivers.edu import Edu
from pyvfio.drivers.iommufd_mock import EVENT_SIZE, EVENTS, MockDevice, MockStage1, MockViommu
from pyvfio.iommufd import cdev_node
from pyvfio.sysfs import pci_device
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 4


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a forked process that does act: 0 if it raised nothing."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking where other threads run, which is what is to be shown here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_changes_nothing(space: Space, edu: Edu, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    memory.write(0, MESSAGE)

    def child() -> None:
        for use in (
            lambda: space.map_dma(0, memory, 0, BLOCK),
            space.unmap_all,
            lambda: edu.device.region(0).read32(0),
        ):
            with pytest.raises(ClosedError, match="forked this one"):
                use()
        space.close()
        memory.close()

    assert in_child(child) == 0
    edu.fetch(IOVA, len(MESSAGE))
    edu.store(IOVA + BLOCK, len(MESSAGE))
    assert memory.read(BLOCK, len(MESSAGE)) == MESSAGE
    assert space.unmap_all() == 2 * BLOCK


@pytest.mark.needs("iommufd-test")
def test_a_forked_child_leaves_faults_and_events_alone(mock_ioas: Ioas, mock_device: MockDevice) -> None:
    faults = FaultQueue(mock_ioas.iommufd)
    viommu = mock_ioas.page_table(mock_device, nest_parent=True).viommu(mock_device, MockViommu())
    viommu.device(mock_device, 1)
    events = viommu.event_queue(EVENTS, 4, event_size=EVENT_SIZE)
    mock_device.attach(viommu.nested(mock_device, MockStage1(), faults=faults))

    def child() -> None:
        for use in (faults.pending, events.pending, lambda: viommu.invalidate([]), mock_device.detach):
            with pytest.raises(ClosedError, match="forked this one"):
                use()
        mock_ioas.iommufd.close()

    mock_device.fault(0x1000)
    mock_device.event()
    assert in_child(child) == 0
    faults.respond(*faults.wait(5))
    assert len(events.wait(5)) == 1
    mock_ioas.iommufd.close()


def test_what_is_dropped_open_is_told_and_closed(kernel: Kernel) -> None:
    opened = [Container(kernel=kernel)]
    fd = opened[0].fd
    with pytest.warns(ResourceWarning, match="was never closed"):
        opened.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.close(fd)


def test_what_was_dropped_with_its_device_is_opened_again(mode: Mode, testbed: Testbed, memory: Memory) -> None:
    before = mode.charged(testbed.kernel)

    def cell() -> None:
        space = mode.open(testbed.kernel)
        device = space.open_device(testbed.devices[0])
        device.interrupts(InterruptIndex.MSI).enable()
        device.region(0).read32(0)
        space.map_dma(IOVA, memory, 0, BLOCK)

    gc.collect()
    gc.disable()
    try:
        cell()
        with pytest.warns(ResourceWarning, match="was never closed"):
            cell()
        with pytest.warns(ResourceWarning, match="was never closed"):
            gc.collect()
    finally:
        gc.enable()
    assert mode.charged(testbed.kernel) == before


def test_closing_twice_is_once(mode: Mode, testbed: Testbed) -> None:
    space = mode.open(testbed.kernel)
    device = space.open_device(testbed.devices[0])
    space.close()
    space.close()
    device.close()
    assert device.closed
    for use in (lambda: space.mappings_left, lambda: space.open_device(testbed.devices[0]), space.unmap_everything):
        with pytest.raises(ClosedError, match="it is closed"):
            use()
    with mode.open(testbed.kernel) as again:
        again.open_device(testbed.devices[0])


def test_several_threads_map_and_unmap(space: Space, memory: Memory, mode: Mode, kernel: Kernel) -> None:
    before = mode.charged(kernel)
    failures = list[BaseException]()

    def work(number: int) -> None:
        try:
            for _ in range(20):
                iova = IOVA + number * 16 * BLOCK
                space.map_dma(iova, memory, 0, memory.size, granularity=MEBIBYTE)
                assert space.unmap_dma(iova, MEBIBYTE) == MEBIBYTE
                assert space.unmap_dma(iova, memory.size) == memory.size - MEBIBYTE
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (space.mappings(), space.mapping_count) == ((), 0)
    assert mode.charged(kernel) == before


def test_closing_waits_for_other_threads(mode: Mode, testbed: Testbed, memory: Memory) -> None:
    before = mode.charged(testbed.kernel)
    space = mode.open(testbed.kernel)
    space.open_device(testbed.devices[0])
    ended: list[str] = []

    def work() -> None:
        try:
            while True:
                space.map_dma(IOVA, memory, 0, memory.size, granularity=MEBIBYTE)
                space.unmap_all()
        except ClosedError:
            ended.append("closed")

    threads = [threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    while not space.calls.unmap:
        threads[0].join(0.001)
    space.close()
    for thread in threads:
        thread.join()
    assert ended == ["closed"]
    assert mode.charged(testbed.kernel) == before


def test_objects_of_descriptors_that_are_open(testbed: Testbed, memory: Memory) -> None:
    kernel, address = testbed.kernel, testbed.devices[0]
    number = pci_device(kernel, address).group
    assert number is not None
    with Container.from_fd(kernel.open("/dev/vfio/vfio", os.O_RDWR), kernel=kernel) as container:
        group = Group.from_fd(kernel.open(f"/dev/vfio/{number}", os.O_RDWR), number, kernel=kernel, container=container)
        container.attach(group)
        assert container.iommu_type is IommuType.TYPE1v2
        device = group.open_device(address)
        container.map_dma(IOVA, memory, 0, BLOCK)
        assert device.interrupts(InterruptIndex.MSI).info.count == 1
    assert group.closed
    assert device.closed


def test_a_descriptor_of_something_else_is_no_container(kernel: Kernel) -> None:
    fd = kernel.open("/dev/null", os.O_RDWR)
    with pytest.raises(VfioError, match="no VFIO container"):
        Container.from_fd(fd, kernel=kernel)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.pread(fd, 1, 0)


@pytest.mark.needs("iommufd", "cdev")
def test_an_iommufd_of_a_descriptor_that_is_open(testbed: Testbed, memory: Memory) -> None:
    kernel = testbed.kernel
    with Iommufd.from_fd(kernel.open("/dev/iommu", os.O_RDWR), kernel=kernel) as iommufd:
        ioas = Ioas(iommufd)
        device: Device = ioas.open_device(testbed.devices[0])
        ioas.map_dma(IOVA, memory, 0, BLOCK)
        assert device.config.vendor_id == 0x1234
    assert ioas.closed
    assert device.closed


@pytest.mark.needs("iommufd", "cdev")
def test_a_node_that_is_open_already(testbed: Testbed, memory: Memory) -> None:
    kernel, address = testbed.kernel, testbed.devices[0]
    node = cdev_node(kernel, address)
    with Ioas(kernel=kernel) as ioas:
        with pytest.raises(VfioError, match="not of a device's own node"):
            CdevDevice.from_fd(ioas.iommufd, kernel.open("/dev/null", os.O_RDWR), address)
        device = CdevDevice.from_fd(ioas.iommufd, kernel.open(node, os.O_RDWR), address)
        device.attach(ioas)
        ioas.map_dma(IOVA, memory, 0, BLOCK)
        memory.write(0, MESSAGE)
        with Edu(device) as edu:
            edu.fetch(IOVA, len(MESSAGE))
            edu.store(IOVA + 4096, len(MESSAGE))
        assert memory.read(4096, len(MESSAGE)) == MESSAGE
        with pytest.raises(DeviceBusy, match="open already"):
            CdevDevice.from_fd(ioas.iommufd, kernel.open(node, os.O_RDWR), address)
    assert device.closed
    fd = kernel.open(node, os.O_RDWR)
    with pytest.raises(ClosedError):
        CdevDevice.from_fd(ioas.iommufd, fd, address)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.pread(fd, 1, 0)
