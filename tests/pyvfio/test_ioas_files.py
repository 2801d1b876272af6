"""What an Ioas maps by a file, and what by its address."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from pyvfio import BarMemory, Ioas, Memory, MemoryKind, OutsideIovaRanges, SharedMemory, VfioError
from pyvfio.abi import iommufd as abi
from pyvfio.faults import Call, Fault, FaultyKernel
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.plain import IDS, PlainDevice

EDU, PLAIN = "0000:00:03.0", "0000:05:00.0"
IOVA, SIZE, PAGE = 0x1_0000_0000, 0x1_0000, 4096
BY_FILE, BY_ADDRESS = Call("ioctl", abi.IOMMU_IOAS_MAP_FILE), Call("ioctl", abi.IOMMU_IOAS_MAP)
MAPS: dict[str, Callable[[Ioas, Memory], object]] = {
    "map_dma": lambda ioas, memory: ioas.map_dma(IOVA, memory, 0, SIZE, granularity=PAGE),
    "map_anywhere": lambda ioas, memory: ioas.map_anywhere(memory, 0, SIZE),
}


@pytest.fixture
def kernel() -> FaultyKernel:
    simulated = SimKernel(edu_devices=1, version=(7, 3))
    simulated.add(PciFunction(PLAIN, 7, *IDS, driver="vfio-pci", model=PlainDevice))
    return FaultyKernel(simulated)


def maps(kernel: FaultyKernel) -> list[Call]:
    """The calls that map, since the rules were armed."""
    return [call for call in kernel.calls if call in (BY_FILE, BY_ADDRESS)]


def test_memory_with_a_file_is_mapped_by_it_anywhere_too(kernel: FaultyKernel) -> None:
    with Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        ioas.map_anywhere(memory, PAGE, SIZE - PAGE)
        ioas.iommufd.change_process()


def test_registers_are_mapped_anywhere(kernel: FaultyKernel) -> None:
    with Ioas(kernel=kernel) as ioas:
        region = ioas.open_device(PLAIN).region(0)
        memory = BarMemory(region, 0, PAGE)
        iova = ioas.map_anywhere(memory, 0, PAGE)
        assert ioas.mappings_in(iova, PAGE)[0].memory is memory
        ioas.unmap_dma(iova, PAGE)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("way", MAPS)
def test_a_file_that_the_kernel_does_not_take_is_mapped_by_its_address(
    kernel: FaultyKernel, way: str, code: int
) -> None:
    """As one of a disk: only those of shmem and hugetlbfs can be pinned by their descriptor."""
    with SharedMemory(SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, SIZE)
        memory.attach(fd)
        ioas.open_device(EDU)
        ioas.map_dma(0, memory, 0, PAGE)
        ioas.unmap_all()
        kernel.arm(Fault(0, "ioctl", abi.IOMMU_IOAS_MAP_FILE, errno=code))
        MAPS[way](ioas, memory)
        assert maps(kernel)[:2] == [BY_FILE, BY_ADDRESS]
        assert BY_FILE not in maps(kernel)[1:]
        assert sum(run.size for run in ioas.mappings()) == SIZE
        assert ioas.unconfirmed() == ()
        ioas.unmap_all()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_that_was_made_for_the_memory_is_mapped_by_nothing_else(kernel: FaultyKernel, code: int) -> None:
    with Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        ioas.map_dma(0, memory, 0, PAGE)
        kernel.arm(Fault(0, "ioctl", abi.IOMMU_IOAS_MAP_FILE, errno=code))
        with pytest.raises(VfioError):
            ioas.map_dma(IOVA, memory, 0, SIZE)
        assert BY_ADDRESS not in maps(kernel)


def test_what_neither_way_can_map_is_explained_by_the_last(kernel: FaultyKernel) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, SIZE)
        memory.attach(fd)
        ioas.map_dma(0, memory, 0, PAGE)
        ioas.unmap_all()
        kernel.arm(*(Fault(0, "ioctl", call.request, errno=errno.EINVAL) for call in (BY_FILE, BY_ADDRESS)))
        with pytest.raises(OutsideIovaRanges):
            ioas.map_dma(IOVA, memory, 0, SIZE)
        assert ioas.mappings() == ()
        ioas.map_dma(IOVA, memory, 0, SIZE)


def test_a_file_that_ends_in_the_middle_leaves_nothing_mapped(kernel: FaultyKernel) -> None:
    with Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        ioas.open_device(EDU)
        kernel.arm(Fault(3, "ioctl", abi.IOMMU_IOAS_MAP_FILE, errno=errno.EINVAL))
        with pytest.raises(OutsideIovaRanges):
            ioas.map_dma(IOVA, memory, 0, SIZE, granularity=PAGE)
        assert BY_ADDRESS not in maps(kernel)
        assert (ioas.mappings(), ioas.unconfirmed()) == ((), ())
