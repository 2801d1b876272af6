"""A process takes up what another has left mapped, while a device goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvfio import AlreadyMapped, CdevDevice, Container, Device, Group, Ioas, Iommufd, IommuType, Kernel, MemoryKind
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import memlock
from pyvfio.memory import SharedMemory
from tests.support.kernels.processes import another_process
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed, populated

BLOCK = 2 * MEBIBYTE
BLOCKS = 8
MESSAGE = bytes(range(256)) * 4
LEFT = (0, 1, 3, 6, 7)
"""The blocks that the process before has mapped."""


def left_by_another(kernel: Kernel, fd: int, file: int) -> Iterator[int]:
    """Map LEFT, and end without unmapping it, or with the container."""
    with SharedMemory(BLOCKS * BLOCK, kernel=kernel) as memory:
        memory.attach(file)
        container = Container.from_fd(fd, kernel=kernel, iommu_type=IommuType.TYPE1v2)
        for block in LEFT:
            container.map_dma(IOVA + block * BLOCK, memory, block * BLOCK, BLOCK, granularity=BLOCK)
        yield container.mapping_count
        container.hand_over()


def test_what_a_process_before_has_mapped_is_taken_up(container: Container, engine: Edu, kernel: Kernel) -> None:
    before = memlock(kernel).charged
    with populated(kernel, MemoryKind.MEMFD, BLOCKS * BLOCK) as memory:
        assert memory.fd is not None
        with another_process(kernel, left_by_another, container.fd, memory.fd) as step:
            assert step() == len(LEFT)
        memory.write(0, MESSAGE)
        engine.fetch(IOVA, len(MESSAGE))
        assert container.take_up(IOVA, memory, 0, BLOCKS * BLOCK, granularity=BLOCK) == len(LEFT) * BLOCK
        assert [(run.iova, run.size) for run in container.mappings()] == [
            (IOVA, 2 * BLOCK),
            (IOVA + 3 * BLOCK, BLOCK),
            (IOVA + 6 * BLOCK, 2 * BLOCK),
        ]
        assert container.unconfirmed() == ()
        assert memlock(kernel).charged == before + len(LEFT) * BLOCK
        # Nothing is mapped where nothing was, and everything is as if it had been mapped here.
        container.map_dma(IOVA + 2 * BLOCK, memory, 2 * BLOCK, BLOCK, granularity=BLOCK)
        engine.store(IOVA + 7 * BLOCK, len(MESSAGE))
        assert memory.read(7 * BLOCK, len(MESSAGE)) == MESSAGE
        assert container.unmap_dma(IOVA, BLOCK) == BLOCK
        with pytest.raises(AlreadyMapped):
            container.take_up(IOVA, memory, 0, BLOCKS * BLOCK, granularity=BLOCK)
        assert container.unmap_all() == len(LEFT) * BLOCK
        assert memlock(kernel).charged == before


def test_a_container_is_handed_over_with_its_group_and_device(testbed: Testbed, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, BLOCK) as memory:
        container = Container(kernel=kernel)
        device = container.open_device(testbed.devices[0])
        assert isinstance(device.group, Group)
        copies = [kernel.dup(each.fd) for each in (container, device.group, device)]
        number, address = device.group.number, device.address
        container.map_dma(IOVA, memory, 0, BLOCK, granularity=BLOCK)
        container.hand_over()
        assert container.closed
        assert device.closed
        with Container.from_fd(copies[0], kernel=kernel, iommu_type=IommuType.TYPE1v2) as successor:
            group = Group.from_fd(copies[1], number, kernel=kernel, container=successor)
            engine = Edu(Device(copies[2], address, group=group))
            assert successor.take_up(IOVA, memory, 0, BLOCK, granularity=BLOCK) == BLOCK
            memory.write(0, MESSAGE)
            engine.fetch(IOVA, len(MESSAGE))
            engine.store(IOVA + len(MESSAGE), len(MESSAGE))
            assert memory.read(len(MESSAGE), len(MESSAGE)) == MESSAGE


@pytest.mark.needs("iommufd", "cdev")
def test_an_iommufd_is_handed_over_with_its_device(testbed: Testbed, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, BLOCKS * BLOCK) as memory:
        ioas = Ioas(iommufd := Iommufd(kernel=kernel))
        device = ioas.open_device(testbed.devices[0])
        copies = [kernel.dup(each.fd) for each in (iommufd, device)]
        numbers, address = (ioas.id, device.id), device.address
        for block in LEFT:
            ioas.map_dma(IOVA + block * BLOCK, memory, block * BLOCK, BLOCK, granularity=BLOCK)
        iommufd.hand_over()
        assert ioas.closed
        with Iommufd.from_fd(copies[0], kernel=kernel) as successor:
            ioas = Ioas.from_id(successor, numbers[0])
            device = CdevDevice.from_fd(successor, copies[1], address, bound_as=numbers[1], attached_to=ioas)
            engine = Edu(device)
            assert ioas.devices == (device,)
            assert ioas.take_up(IOVA, memory, 0, BLOCKS * BLOCK, granularity=BLOCK) == len(LEFT) * BLOCK
            memory.write(0, MESSAGE)
            engine.fetch(IOVA, len(MESSAGE))
            engine.store(IOVA + 7 * BLOCK, len(MESSAGE))
            assert memory.read(7 * BLOCK, len(MESSAGE)) == MESSAGE
            assert ioas.unmap_all() == len(LEFT) * BLOCK
