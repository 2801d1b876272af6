"""Bytes that a device really moves, and those it must not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvfio import Access, Kernel, Memory, MemoryKind, SharedMemory, VfioError
from pyvfio.drivers.edu import Edu
from pyvfio.memory import HUGE_PAGE_SIZE
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


SHARED = ["shared", "shared huge pages"]


@contextmanager
def three_blocks(kernel: Kernel, kind: MemoryKind | str) -> Iterator[Memory]:
    """Memory of a kind, populated; of SHARED, of a file of another that begins in the middle of it."""
    if isinstance(kind, MemoryKind):
        with populated(kernel, kind, 3 * BLOCK) as memory:
            yield memory
        return
    is_huge = kind != "shared"
    with populated(kernel, MemoryKind.HUGETLB if is_huge else MemoryKind.MEMFD, 5 * BLOCK) as others:
        assert others.fd is not None
        others.write(0, b"\xee" * others.size)
        with SharedMemory(3 * BLOCK, page_size=HUGE_PAGE_SIZE if is_huge else None, kernel=kernel) as memory:
            memory.attach(kernel.dup(others.fd), offset=2 * BLOCK)
            memory.populate(0, memory.size)
            yield memory
            assert others.read(0, 2 * BLOCK) == b"\xee" * 2 * BLOCK


@pytest.mark.parametrize("kind", [*MEMORY_KINDS, *SHARED], ids=str)
def test_the_right_part_of_whatever_is_mapped(kind: MemoryKind | str, space: Space, edu: Edu, kernel: Kernel) -> None:
    """For every kind of address space and of memory, at an offset in it."""
    with three_blocks(kernel, kind) as memory:
        memory.write(0, b"\xdd" * memory.size)
        memory.write(BLOCK, MESSAGE)
        space.map_dma(IOVA, memory, BLOCK, BLOCK)
        edu.fetch(IOVA, len(MESSAGE))
        edu.store(IOVA + BLOCK // 2, len(MESSAGE))
        space.unmap_all()
        expected = MESSAGE.ljust(BLOCK // 2, b"\xdd") * 2
        assert memory.read(0, memory.size) == b"\xdd" * BLOCK + expected + b"\xdd" * BLOCK


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


@pytest.mark.parametrize("kind", MEMORY_KINDS, ids=lambda kind: kind.value)
def test_a_child_that_is_forked_leaves_the_device_on_the_parents_pages(
    kind: MemoryKind, space: Space, edu: Edu, kernel: Kernel
) -> None:
    with populated(kernel, kind, BLOCK) as memory:
        space.map_dma(IOVA, memory, 0, BLOCK // 2)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        try:
            space.map_dma(IOVA + BLOCK, memory, BLOCK // 2, BLOCK // 2, Access.READ)
            for offset, iova, message in ((0, IOVA, MESSAGE), (BLOCK // 2, IOVA + BLOCK, MESSAGE[::-1])):
                memory.write(offset, message)
                edu.fetch(iova, len(message))
                edu.store(IOVA + 8192, len(message))
                assert memory.read(8192, len(message)) == message
        finally:
            os.close(writer)
            os.close(reader)
            os.waitpid(child, 0)
        space.unmap_all()
