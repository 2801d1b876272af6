"""Devices without an IOMMU that are opened by their own nodes: iommufd pins memory, and tells where it lies."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import (
    CdevDevice,
    InvalidArgument,
    Ioas,
    Iommufd,
    Kernel,
    Memory,
    MemoryKind,
    NoIommuError,
    NotMapped,
    VfioError,
)
from pyvfio.abi.mman import MADV_DONTNEED
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.kernel import memlock
from pyvfio.noiommu import PhysicalRange, PhysicalRun, UnsafePhysicalMemory
from tests.support.capabilities import without_raw_io
from tests.support.kernels.hardware import machine_without_iommu
from tests.support.kernels.testbed import IOVA, MEBIBYTE, MEMORY_KINDS, populated

pytestmark = pytest.mark.needs("noiommu")

PAGE = 4096
BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 8


@pytest.fixture
def kernel(kernel_name: str) -> Iterator[Kernel]:
    with machine_without_iommu(kernel_name) as kernel:
        yield kernel


@pytest.fixture
def empty(kernel: Kernel) -> Iterator[Ioas]:
    """No device is attached."""
    with Ioas(kernel=kernel) as ioas:
        yield ioas


@pytest.fixture
def ioas(empty: Ioas, kernel: Kernel) -> Ioas:
    """The first device is attached."""
    empty.open_device(edu_addresses(kernel)[0], unsafe_noiommu=True)
    return empty


@pytest.fixture
def device(ioas: Ioas) -> CdevDevice:
    return ioas.devices[0]


@pytest.fixture
def memory(kernel: Kernel) -> Iterator[Memory]:
    with populated(kernel, MemoryKind.ANONYMOUS, 2 * BLOCK) as memory:
        yield memory


def test_a_device_is_opened_for_who_asks_for_it_only(empty: Ioas, kernel: Kernel) -> None:
    address = edu_addresses(kernel)[0]
    with pytest.raises(NoIommuError, match=r"no IOMMU behind it.*unsafe_noiommu=True.*physical_range"):
        empty.open_device(address)
    device = empty.open_device(address, unsafe_noiommu=True)
    assert device.is_noiommu
    assert empty.devices == (device,)
    with Edu(device) as edu:
        assert edu.check_liveness(0x1234_5678)
        assert edu.raise_interrupt()


@pytest.mark.parametrize("kind", MEMORY_KINDS)
def test_a_device_is_given_the_addresses_the_kernel_tells(
    kind: MemoryKind, ioas: Ioas, device: CdevDevice, kernel: Kernel
) -> None:
    with populated(kernel, kind, 2 * BLOCK) as memory:
        pinned = memlock(kernel).pinned
        ioas.map_dma(IOVA, memory, 0, 2 * BLOCK)
        assert memlock(kernel).pinned == pinned + 2 * BLOCK
        runs = ioas.physical_runs(IOVA, 2 * BLOCK)
        assert sum(run.size for run in runs) == 2 * BLOCK
        assert all(run.size % memory.page_size == 0 for run in runs)
        with Edu(device) as edu:
            for number, (source, target) in enumerate(((0, BLOCK), (BLOCK + PAGE, 5 * PAGE), (PAGE, 2 * BLOCK - PAGE))):
                message = MESSAGE[number:] + MESSAGE[:number]
                memory.write(source, message)
                edu.fetch(address_in(runs, source), len(message))
                edu.store(address_in(runs, target), len(message))
                assert memory.read(target, len(message)) == message
        ioas.unmap_all()


def address_in(runs: tuple[PhysicalRun, ...], offset: int) -> int:
    (run,) = (run for run in runs if run.offset <= offset < run.offset + run.size)
    return run.address + offset - run.offset


def test_where_what_is_mapped_lies(ioas: Ioas, memory: Memory) -> None:
    ioas.map_dma(IOVA, memory, 0, BLOCK, granularity=MEBIBYTE)
    start = ioas.physical_range(IOVA, PAGE)
    assert start.size == PAGE
    assert start.address % PAGE == 0
    assert ioas.physical_range(IOVA + 5, 1) == PhysicalRange(start.address + 5, 1)
    assert ioas.physical_range(IOVA + 5, PAGE - 5) == PhysicalRange(start.address + 5, PAGE - 5)
    assert ioas.physical_range(IOVA + MEBIBYTE - PAGE).size == PAGE  # no further than the mapping goes
    assert ioas.physical_runs(IOVA, 0) == ()
    assert ioas.physical_runs(IOVA + 5, 7) == (PhysicalRun(0, start.address + 5, 7),)


def test_it_is_where_pagemap_says(ioas: Ioas, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.HUGETLB, 2 * BLOCK) as memory, UnsafePhysicalMemory(memory) as physical:
        ioas.map_dma(IOVA, memory, BLOCK, BLOCK)
        assert ioas.physical_range(IOVA) == PhysicalRange(physical.address(BLOCK), BLOCK)
        ioas.unmap_all()


def test_what_has_no_address(ioas: Ioas, memory: Memory) -> None:
    ioas.map_dma(IOVA, memory, 0, MEBIBYTE)
    with pytest.raises(NotMapped, match="nothing is mapped there"):
        ioas.physical_range(IOVA + MEBIBYTE)
    with pytest.raises(NotMapped):
        ioas.physical_runs(IOVA, MEBIBYTE + 1)
    for iova, size in ((-1, 1), (1 << 64, 1), ((1 << 64) - 1, 1), (IOVA, 0), (IOVA, 1 << 64)):
        with pytest.raises(InvalidArgument, match="below 2"):
            ioas.physical_range(iova, size)
    ioas.unmap_all()
    with pytest.raises(NotMapped):
        ioas.physical_range(IOVA)


def test_no_address_without_a_device(empty: Ioas, memory: Memory, kernel: Kernel) -> None:
    empty.map_dma(IOVA, memory, 0, BLOCK)
    with pytest.raises(VfioError, match="no device without an IOMMU is attached") as caught:
        empty.physical_range(IOVA)
    assert caught.value.errno == errno.EOPNOTSUPP
    empty.open_device(edu_addresses(kernel)[0], unsafe_noiommu=True)
    assert empty.physical_range(IOVA, PAGE).size == PAGE


def test_no_address_and_no_device_without_the_capability(ioas: Ioas, memory: Memory, kernel: Kernel) -> None:
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    with without_raw_io(kernel):
        for attempt in (
            lambda: ioas.physical_range(IOVA),
            lambda: CdevDevice(ioas.iommufd, edu_addresses(kernel)[1], unsafe_noiommu=True),
        ):
            with pytest.raises(VfioError, match="CAP_SYS_RAWIO") as caught:
                attempt()
            assert caught.value.errno == errno.EPERM


def test_a_device_keeps_the_page_that_was_discarded(
    ioas: Ioas, device: CdevDevice, memory: Memory, kernel: Kernel
) -> None:
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(PAGE, MESSAGE)
    before = ioas.physical_range(IOVA + PAGE, PAGE)
    # Behind the memory's back, which would not let it happen.
    kernel.madvise(memory.address + PAGE, PAGE, MADV_DONTNEED)
    assert memory.read(PAGE, len(MESSAGE)) == bytes(len(MESSAGE))
    assert ioas.physical_range(IOVA + PAGE, PAGE) == before
    with Edu(device) as edu:
        edu.fetch(before.address, len(MESSAGE))
        edu.store(ioas.physical_range(IOVA).address, len(MESSAGE))
    assert memory.read(0, len(MESSAGE)) == MESSAGE


def test_devices_share_and_part(ioas: Ioas, device: CdevDevice, kernel: Kernel) -> None:
    other = ioas.open_device(edu_addresses(kernel)[1], unsafe_noiommu=True)
    with populated(kernel, MemoryKind.HUGETLB, BLOCK) as memory:
        ioas.map_dma(IOVA, memory, 0, BLOCK)
        address = ioas.physical_range(IOVA).address
        memory.write(0, MESSAGE)
        with Edu(device) as one, Edu(other) as two:
            for edu, target in ((one, PAGE), (two, 2 * PAGE)):
                edu.fetch(address, len(MESSAGE))
                edu.store(address + target, len(MESSAGE))
                assert memory.read(target, len(MESSAGE)) == MESSAGE
            pinned = memlock(kernel).pinned
            device.detach()
            assert memlock(kernel).pinned == pinned
            assert ioas.physical_range(IOVA).address == address
            other.detach()
            assert memlock(kernel).pinned == pinned - BLOCK
            with pytest.raises(VfioError, match="no device without an IOMMU is attached"):
                ioas.physical_range(IOVA)
            # Nothing is between the device and memory, whatever it is attached to: the program has to stop it.
            one.store(address + 3 * PAGE, len(MESSAGE))
            assert memory.read(3 * PAGE, len(MESSAGE)) == MESSAGE
            device.attach(ioas)
            assert ioas.physical_range(IOVA).address == address


def test_what_the_iommu_that_is_not_there_can_do(ioas: Ioas, device: CdevDevice, memory: Memory) -> None:
    with pytest.raises(VfioError, match="no IOMMU behind the device") as caught:
        device.hardware_info()
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(VfioError, match="has no such page table"):
        ioas.page_table(device, dirty_tracking=True)
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    with ioas.page_table(device) as table:
        device.attach(table)
        assert ioas.physical_range(IOVA, PAGE).size == PAGE
    assert device.attached is None


def test_a_device_is_opened_in_one_way(device: CdevDevice, kernel: Kernel) -> None:
    with pytest.raises(VfioError, match="open already"), Iommufd(kernel=kernel) as iommufd:
        CdevDevice(iommufd, device.address, unsafe_noiommu=True)
