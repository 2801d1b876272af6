"""take_up() whose nth call to the kernel fails: it says so, and can be tried again."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from pyvfio import Container, IommuType, VfioError
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.memory import SharedMemory
from pyvfio.sim import SimKernel

BLOCK = 2 << 20
LEFT = (0, 1, 3)


@pytest.mark.parametrize("nth", range(1, 13))
def test_a_failure_leaves_what_can_be_tried_again(nth: int) -> None:
    machine = SimKernel(edu_devices=1)
    other = machine.spawn()
    kernel = FaultyKernel(other)
    with (
        Container(kernel=machine) as container,
        SharedMemory(4 * BLOCK, kernel=machine) as memory,
        SharedMemory(4 * BLOCK, kernel=kernel) as same,
    ):
        container.open_device(edu_addresses(machine)[0])
        file = machine.memfd_create("guest", 0)
        machine.ftruncate(file, 4 * BLOCK)
        same.attach(machine.send(file, other))
        memory.attach(file)
        for block in LEFT:
            container.map_dma(block * BLOCK, memory, block * BLOCK, BLOCK, granularity=BLOCK)
        fd = machine.send(container.fd, other)
        with Container.from_fd(fd, kernel=kernel, iommu_type=IommuType.TYPE1v2) as successor:
            kernel.arm(Fault(nth=nth, name="ioctl", errno=errno.EIO))
            with suppress(VfioError):
                successor.take_up(0, same, 0, 4 * BLOCK, granularity=BLOCK)
            kernel.arm()
            for block in range(4):
                if not any(run.iova <= block * BLOCK < run.end for run in successor.mappings()):
                    successor.take_up(block * BLOCK, same, block * BLOCK, BLOCK, granularity=BLOCK)
            assert sum(run.size for run in successor.mappings()) == 3 * BLOCK
            assert successor.unconfirmed() == ()
            assert successor.unmap_all() == 3 * BLOCK
