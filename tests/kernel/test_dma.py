"""Bytes that a device really moves, and those it must not."""

from __future__ import annotations

import pytest

from pyvfio import Access, Container, Kernel, Memory, MemoryKind, VfioError
from pyvfio.drivers.edu import Edu
from tests.kernel.conftest import IOVA, MEBIBYTE, MEMORY_KINDS, populated

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 8


@pytest.mark.parametrize("kind", MEMORY_KINDS, ids=lambda kind: kind.value)
def test_a_device_reads_and_writes_mapped_memory(
    kind: MemoryKind, container: Container, engine: Edu, kernel: Kernel
) -> None:
    with populated(kernel, kind, 2 * BLOCK) as memory:
        container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        memory.write(BLOCK - 2048, MESSAGE)
        engine.fetch(IOVA + BLOCK - 2048, len(MESSAGE))
        engine.store(IOVA + 2 * BLOCK - 2048, len(MESSAGE))
        assert memory.read(2 * BLOCK - 2048, len(MESSAGE)) == MESSAGE
        container.unmap_all()


def test_after_unmap_the_iommu_stops_the_device(container: Container, engine: Edu, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    memory.write(0, MESSAGE)
    engine.fetch(IOVA, len(MESSAGE))
    container.unmap_dma(IOVA + BLOCK, BLOCK)
    engine.store(IOVA + BLOCK, len(MESSAGE))
    assert memory.read(BLOCK, len(MESSAGE)) == bytes(len(MESSAGE))
    engine.store(IOVA + BLOCK - 2048, len(MESSAGE))
    assert memory.read(BLOCK - 2048, len(MESSAGE)) == MESSAGE


def test_a_read_only_mapping_cannot_be_written(container: Container, engine: Edu, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK, Access.READ)
    memory.write(0, MESSAGE)
    engine.fetch(IOVA, len(MESSAGE))
    engine.store(IOVA + 4096, len(MESSAGE))
    assert memory.read(4096, len(MESSAGE)) == bytes(len(MESSAGE))


def test_without_bus_mastering_nothing_moves(container: Container, engine: Edu, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    engine.fetch(IOVA, len(MESSAGE))
    engine.device.config.disable_bus_master()
    with pytest.raises(VfioError, match="ETIMEDOUT"):
        engine.store(IOVA + 4096, len(MESSAGE), timeout=0.5)
    assert memory.read(4096, len(MESSAGE)) == bytes(len(MESSAGE))


def test_memory_that_is_mapped_twice_is_one(container: Container, engine: Edu, memory: Memory) -> None:
    container.map_dma(IOVA, memory, 0, BLOCK)
    container.map_dma(IOVA + BLOCK, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    engine.fetch(IOVA, len(MESSAGE))
    engine.store(IOVA + BLOCK + 4096, len(MESSAGE))
    engine.fetch(IOVA + 4096, len(MESSAGE))
    engine.store(IOVA + BLOCK + 8192, len(MESSAGE))
    assert memory.read(8192, len(MESSAGE)) == MESSAGE
