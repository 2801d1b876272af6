"""Addresses of mappings change, and the mappings stay."""

from __future__ import annotations

import pytest

from pyvfio import Access, Container, IommuType, Kernel, Memory, MemoryKind, NotMapped, VfioError
from pyvfio.container.live_update import invalidate_vaddrs, update_vaddr
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import memlock
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed, populated

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 4


def test_devices_go_on_while_addresses_change(container: Container, engine: Edu, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, 2 * BLOCK) as memory:
        container.map_dma(IOVA, memory, 0, 2 * BLOCK, Access.READ_WRITE, granularity=BLOCK)
        charged = memlock(kernel).charged
        assert invalidate_vaddrs(container) == 2 * BLOCK
        with pytest.raises(VfioError, match="invalid already"):
            invalidate_vaddrs(container)
        memory.write(0, MESSAGE)
        engine.fetch(IOVA, len(MESSAGE))
        update_vaddr(container, IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        engine.store(IOVA + BLOCK, len(MESSAGE))
        assert memory.read(BLOCK, len(MESSAGE)) == MESSAGE
        assert container.mapping_count == 2
        assert memlock(kernel).charged == charged
        assert container.unmap_all() == 2 * BLOCK


def test_no_group_is_attached_meanwhile(container: Container, memory: Memory, testbed: Testbed) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    invalidate_vaddrs(container)
    with pytest.raises(VfioError, match="EBUSY"):
        container.open_device(testbed.devices[1])
    update_vaddr(container, IOVA, memory, 0, BLOCK)
    container.open_device(testbed.devices[1])


def test_only_what_waits_gets_an_address(container: Container, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    with pytest.raises(NotMapped, match="waits for one of this process"):
        update_vaddr(container, IOVA, memory, 0, BLOCK)
    invalidate_vaddrs(container)
    for iova, size in ((IOVA + BLOCK, BLOCK), (IOVA, MEBIBYTE)):
        with pytest.raises(NotMapped, match="waits for one of this process"):
            update_vaddr(container, iova, memory, 0, size)
    update_vaddr(container, IOVA, memory, 0, BLOCK)


def test_the_next_owner_takes_a_container_over(container: Container, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, BLOCK) as memory:
        container.map_dma(IOVA, memory, 0, BLOCK)
        invalidate_vaddrs(container)
        with Container.from_fd(kernel.dup(container.fd), kernel=kernel, iommu_type=IommuType.TYPE1v2) as successor:
            assert successor.mappings() == ()
            update_vaddr(successor, IOVA, memory, 0, BLOCK)
            assert successor.mapping_count == 1
            assert successor.unmap_everything() == BLOCK
