"""Containers that more than one process works on: who is charged, whose limit counts, and what lives how long."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from pyvfio import Container, Ioas, Iommufd, IommuType, Kernel, MemlockExceeded, Memory, MemoryKind, RlimitMode
from pyvfio.abi import mman, vfio
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import memlock
from pyvfio.memory import SharedMemory
from pyvfio.sim import SimKernel
from tests.support.kernels.processes import another_process
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed, populated
from tests.support.memlock import memlock_limited

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 4


def received(kernel: Kernel, fd: int) -> Container:
    return Container.from_fd(fd, kernel=kernel, iommu_type=IommuType.TYPE1v2)


def map_for_good(kernel: Kernel, fd: int) -> None:
    """Map memory with MESSAGE in it at IOVA, which nothing unmaps and nothing frees."""
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
    address = kernel.mmap(BLOCK, mman.PROT_READ | mman.PROT_WRITE, flags)
    ctypes.memmove(address, MESSAGE, len(MESSAGE))
    access = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE
    argument = vfio.vfio_iommu_type1_dma_map(flags=access, vaddr=address, iova=IOVA, size=BLOCK)
    kernel.ioctl(fd, vfio.VFIO_IOMMU_MAP_DMA, argument)


def test_each_process_is_charged_for_what_it_maps(container: Container, memory: Memory, kernel: Kernel) -> None:
    def mapper(kernel: Kernel, fd: int) -> Iterator[int]:
        before = memlock(kernel).charged
        map_for_good(kernel, fd)
        yield memlock(kernel).charged - before
        yield memlock(kernel).charged - before

    container.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
    charged = memlock(kernel).charged
    with another_process(kernel, mapper, container.fd) as step:
        assert step() == BLOCK
        assert memlock(kernel).charged == charged
        # Who has the container may unmap, and who has mapped is relieved.
        assert container.unmap_everything() == 2 * BLOCK
        assert step() == 0
        assert memlock(kernel).charged == charged - BLOCK


def test_the_limit_is_that_of_the_process_that_maps(container: Container, memory: Memory, kernel: Kernel) -> None:
    def mapper(kernel: Kernel, fd: int) -> Iterator[None]:
        with (
            received(kernel, fd) as container,
            populated(kernel, MemoryKind.ANONYMOUS, BLOCK) as own,
            memlock_limited(kernel, MEBIBYTE),
        ):
            with pytest.raises(MemlockExceeded):
                container.map_dma(IOVA, own, 0, BLOCK)
            container.map_dma(IOVA, own, 0, MEBIBYTE)
            yield
            container.unmap_all()

    with another_process(kernel, mapper, container.fd) as step:
        step()
        container.map_dma(IOVA + BLOCK, memory, 0, BLOCK)


def test_mappings_outlive_the_process_that_made_them(container: Container, engine: Edu, kernel: Kernel) -> None:
    def mapper(kernel: Kernel, fd: int) -> Iterator[None]:
        map_for_good(kernel, fd)
        yield

    with another_process(kernel, mapper, container.fd) as step:
        step()
    engine.fetch(IOVA, len(MESSAGE))
    with populated(kernel, MemoryKind.ANONYMOUS, BLOCK) as memory:
        container.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
        engine.store(IOVA + BLOCK, len(MESSAGE))
        assert memory.read(0, len(MESSAGE)) == MESSAGE
        assert container.unmap_everything() == 2 * BLOCK


def test_a_live_update_moves_the_charge(container: Container, engine: Edu, kernel: Kernel) -> None:
    """One process maps a file, another maps the same file and takes the mappings over."""

    def successor(kernel: Kernel, fd: int, file: int) -> Iterator[int]:
        before = memlock(kernel).charged
        with received(kernel, fd) as container, SharedMemory(2 * BLOCK, kernel=kernel) as memory:
            memory.attach(file)
            with memlock_limited(kernel, BLOCK):
                container.update_vaddr(IOVA, memory, 0, BLOCK)
                with pytest.raises(MemlockExceeded):
                    container.update_vaddr(IOVA + BLOCK, memory, BLOCK, BLOCK)
            container.update_vaddr(IOVA + BLOCK, memory, BLOCK, BLOCK)
            assert memory.read(BLOCK, len(MESSAGE)) == MESSAGE
            yield memlock(kernel).charged - before
            container.unmap_all()
            yield memlock(kernel).charged - before

    before = memlock(kernel).charged
    with populated(kernel, MemoryKind.MEMFD, 2 * BLOCK) as memory:
        assert memory.fd is not None
        container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        memory.write(0, MESSAGE)
        container.invalidate_vaddrs()
        engine.fetch(IOVA, len(MESSAGE))
        engine.store(IOVA + BLOCK, len(MESSAGE))
        with another_process(kernel, successor, container.fd, memory.fd) as step:
            assert step() == 2 * BLOCK
            assert memlock(kernel).charged == before
            assert step() == 0
        container.unmap_everything()


@pytest.mark.needs("iommufd", "cdev")
def test_files_mapped_by_iommufd_are_handed_over(testbed: Testbed) -> None:
    """Linux 6.14 has it."""

    def successor(kernel: Kernel, fd: int) -> Iterator[int]:
        before = memlock(kernel).charged
        with Iommufd.from_fd(fd, kernel=kernel) as iommufd:
            iommufd.change_process()
            yield memlock(kernel).charged - before
            yield memlock(kernel).charged - before

    kernel = SimKernel(edu_devices=1, version=(7, 3)) if testbed.kernel.name == "simulated" else testbed.kernel
    before = memlock(kernel).charged
    with Iommufd(kernel=kernel) as iommufd, populated(kernel, MemoryKind.MEMFD, BLOCK) as memory:
        iommufd.rlimit_mode = RlimitMode.PROCESS
        ioas = Ioas(iommufd)
        ioas.open_device(testbed.devices[0])
        with memlock_limited(kernel, BLOCK):
            ioas.map_dma(IOVA, memory, 0, BLOCK)
            assert memlock(kernel).charged == before + BLOCK
            with another_process(kernel, successor, iommufd.fd) as step:
                assert step() == BLOCK
                assert memlock(kernel).charged == before
                ioas.unmap_all()
                assert step() == 0
