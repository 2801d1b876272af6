"""Bytes that a device really moves, and those it must not."""

from __future__ import annotations

import pytest

from pyvfio import Access, Kernel, Memory, MemoryKind, VfioError
from pyvfio.drivers.edu import Edu
from tests.support.kernels.modes import Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, MEMORY_KINDS, populated

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 8
PATIENCE = {"simulated": 0.01, "real": 0.5}
"""Seconds after which a transfer that has not come will not come."""


@pytest.mark.parametrize("kind", MEMORY_KINDS, ids=lambda kind: kind.value)
def test_a_device_reads_and_writes_mapped_memory(kind: MemoryKind, space: Space, edu: Edu, kernel: Kernel) -> None:
    with populated(kernel, kind, 2 * BLOCK) as memory:
        space.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        memory.write(BLOCK - 2048, MESSAGE)
        edu.fetch(IOVA + BLOCK - 2048, len(MESSAGE))
        edu.store(IOVA + 2 * BLOCK - 2048, len(MESSAGE))
        assert memory.read(2 * BLOCK - 2048, len(MESSAGE)) == MESSAGE
        space.unmap_all()


def test_after_unmap_the_iommu_stops_the_device(space: Space, edu: Edu, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    memory.write(0, MESSAGE)
    edu.fetch(IOVA, len(MESSAGE))
    space.unmap_dma(IOVA + BLOCK, BLOCK)
    edu.store(IOVA + BLOCK, len(MESSAGE))
    assert memory.read(BLOCK, len(MESSAGE)) == bytes(len(MESSAGE))
    edu.store(IOVA + BLOCK - 2048, len(MESSAGE))
    assert memory.read(BLOCK - 2048, len(MESSAGE)) == MESSAGE


def test_a_read_only_mapping_cannot_be_written(space: Space, edu: Edu, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, BLOCK, Access.READ)
    memory.write(0, MESSAGE)
    edu.fetch(IOVA, len(MESSAGE))
    edu.store(IOVA + 4096, len(MESSAGE))
    assert memory.read(4096, len(MESSAGE)) == bytes(len(MESSAGE))


def test_without_bus_mastering_nothing_moves(space: Space, edu: Edu, memory: Memory, kernel: Kernel) -> None:
    space.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    edu.fetch(IOVA, len(MESSAGE))
    edu.device.config.disable_bus_master()
    with pytest.raises(VfioError, match="ETIMEDOUT"):
        edu.store(IOVA + 4096, len(MESSAGE), timeout=PATIENCE[kernel.name])
    assert memory.read(4096, len(MESSAGE)) == bytes(len(MESSAGE))


def test_memory_that_is_mapped_twice_is_one(space: Space, edu: Edu, memory: Memory) -> None:
    space.map_dma(IOVA, memory, 0, BLOCK)
    space.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    edu.fetch(IOVA, len(MESSAGE))
    edu.store(IOVA + BLOCK + 4096, len(MESSAGE))
    edu.fetch(IOVA + 4096, len(MESSAGE))
    edu.store(IOVA + BLOCK + 8192, len(MESSAGE))
    assert memory.read(8192, len(MESSAGE)) == MESSAGE
