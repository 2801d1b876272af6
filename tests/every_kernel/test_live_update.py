"""Addresses of mappings change, and the mappings stay."""

from __future__ import annotations

import pytest

from pyvfio import Access, Container, IommuType, Kernel, Memory, MemoryKind, NotMapped, VfioError
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import memlock
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed, populated

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 4


def test_devices_go_on_while_addresses_change(container: Container, engine: Edu, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, 2 * BLOCK) as memory:
        container.map_dma(IOVA, memory, 0, 2 * BLOCK, Access.READ_WRITE, granularity=BLOCK)
        charged = memlock(kernel).charged
        assert container.invalidate_vaddrs() == 2 * BLOCK
        with pytest.raises(VfioError, match="invalid already"):
            container.invalidate_vaddrs()
        memory.write(0, MESSAGE)
        engine.fetch(IOVA, len(MESSAGE))
        container.update_vaddr(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        engine.store(IOVA + BLOCK, len(MESSAGE))
        assert memory.read(BLOCK, len(MESSAGE)) == MESSAGE
        assert container.mapping_count == 2
        assert memlock(kernel).charged == charged
        assert container.unmap_all() == 2 * BLOCK


def test_no_group_is_attached_meanwhile(container: Container, memory: Memory, testbed: Testbed) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    container.invalidate_vaddrs()
    with pytest.raises(VfioError, match="EBUSY"):
        container.open_device(testbed.devices[1])
    container.update_vaddr(IOVA, memory, 0, BLOCK)
    container.open_device(testbed.devices[1])


def test_only_what_waits_gets_an_address(container: Container, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    with pytest.raises(NotMapped, match="waits for one of this process"):
        container.update_vaddr(IOVA, memory, 0, BLOCK)
    container.invalidate_vaddrs()
    for iova, size in ((IOVA + BLOCK, BLOCK), (IOVA, MEBIBYTE)):
        with pytest.raises(NotMapped, match="waits for one of this process"):
            container.update_vaddr(iova, memory, 0, size)
    container.update_vaddr(IOVA, memory, 0, BLOCK)


def test_the_next_owner_takes_a_container_over(container: Container, kernel: Kernel) -> None:
    with populated(kernel, MemoryKind.MEMFD, BLOCK) as memory:
        container.map_dma(IOVA, memory, 0, BLOCK)
        container.invalidate_vaddrs()
        with Container.from_fd(kernel.dup(container.fd), kernel=kernel, iommu_type=IommuType.TYPE1v2) as successor:
            assert successor.mappings() == ()
            successor.update_vaddr(IOVA, memory, 0, BLOCK)
            assert successor.mapping_count == 1
            assert successor.unmap_everything() == BLOCK
