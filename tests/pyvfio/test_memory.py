"""Memory on the running kernel: no VFIO needed."""

from __future__ import annotations

import errno
import gc
import os

import pytest

from pyvfio import InvalidArgument, Memory, MemoryKind, MemoryUnavailable, StillMapped
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.kernel import huge_pages
from pyvfio.memory import DmaTarget
from pyvfio.sim import SimKernel
from tests.support.operations import lines_run

MEBIBYTE = 1 << 20
ORDINARY = [MemoryKind.ANONYMOUS, MemoryKind.THP, MemoryKind.MEMFD]


@pytest.mark.parametrize("kind", ORDINARY)
def test_populate_takes_pages_and_discard_gives_them_back_as_zeros(kind: MemoryKind) -> None:
    with Memory.allocate(kind, 8 * MEBIBYTE) as memory:
        assert memory.resident(0, memory.size) == 0
        memory.populate(2 * MEBIBYTE, 4 * MEBIBYTE)
        assert memory.resident(2 * MEBIBYTE, 4 * MEBIBYTE) == 4 * MEBIBYTE
        memory.write(2 * MEBIBYTE, b"content")
        memory.populate(2 * MEBIBYTE, 4 * MEBIBYTE, threads=2)
        assert memory.read(2 * MEBIBYTE, 7) == b"content"
        memory.discard(2 * MEBIBYTE, 4 * MEBIBYTE)
        assert memory.resident(0, memory.size) == 0
        assert memory.read(2 * MEBIBYTE, 7) == bytes(7)


def test_transparent_huge_memory_is_aligned_for_huge_pages() -> None:
    with Memory.allocate(MemoryKind.THP, 4 * MEBIBYTE) as memory:
        assert memory.address % (2 * MEBIBYTE) == 0


def test_a_memfd_can_be_shared_by_its_descriptor() -> None:
    with Memory.allocate(MemoryKind.MEMFD, MEBIBYTE) as memory:
        assert memory.fd is not None
        memory.write(0x1000, b"seen")
        assert memory.kernel.pread(memory.fd, 4, 0x1000) == b"seen"


@pytest.mark.parametrize("kind", [MemoryKind.HUGETLB, MemoryKind.HUGETLB_ANONYMOUS])
@pytest.mark.parametrize("page_size", [2 * MEBIBYTE, 1 << 30])
def test_missing_huge_pages_are_named_with_the_remedy(kind: MemoryKind, page_size: int) -> None:
    pool = huge_pages(page_size)
    size = (pool.free + 1) * page_size
    with pytest.raises(MemoryUnavailable) as caught, Memory.allocate(kind, size, page_size=page_size) as memory:
        memory.populate(0, size)
    assert f"{pool.free + 1} huge pages of {page_size >> 10} KiB needed" in str(caught.value)
    assert f"/hugepages-{page_size >> 10}kB/nr_hugepages" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "page_size"), [(0, None), (-4096, None), (4097, None), (3 * MEBIBYTE, 2 * MEBIBYTE), (6144, 3000)]
)
def test_a_size_that_cannot_be_is_refused(size: int, page_size: int | None) -> None:
    kind = MemoryKind.ANONYMOUS if page_size is None else MemoryKind.HUGETLB
    with pytest.raises(InvalidArgument):
        Memory.allocate(kind, size, page_size=page_size)


@pytest.mark.parametrize(("offset", "size"), [(-4096, 4096), (0, 0), (0, 4095), (1, 4096), (4096, MEBIBYTE)])
@pytest.mark.parametrize("operation", ["populate", "discard"])
def test_a_range_that_cannot_be_is_refused(operation: str, offset: int, size: int) -> None:
    with Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE) as memory, pytest.raises(InvalidArgument):
        getattr(memory, operation)(offset, size)


def test_a_buffer_keeps_the_memory_beyond_close() -> None:
    memory = Memory.allocate(MemoryKind.MEMFD, MEBIBYTE)
    view = memory.buffer(0, 16)
    memory.close()
    view[:] = b"still our memory"
    assert memory.address
    view.release()
    del view
    gc.collect()
    assert not memory.address


def test_memory_that_is_mapped_is_not_discarded() -> None:
    class Device:
        def iova_of(self, memory: DmaTarget, offset: int, size: int) -> int | None:
            return 0x1000 if offset < 4096 < memory.size and size else None

    device = Device()
    with Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE) as memory:
        memory.hold(device)
        with pytest.raises(StillMapped, match="iova 0x1000"):
            memory.discard(0, 8192)
        memory.discard(4096, 4096)
        memory.release(device)


def test_closed_memory_says_so() -> None:
    memory = Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE)
    memory.close()
    memory.close()
    with pytest.raises(OSError, match="closed") as caught:
        memory.populate(0, MEBIBYTE)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("kind", [MemoryKind.ANONYMOUS, MemoryKind.THP, MemoryKind.MEMFD], ids=lambda kind: kind.value)
def test_a_forked_child_has_no_copy_of_private_memory(kind: MemoryKind) -> None:
    """Nor does forking take the time and the memory for one; what has a file is shared."""
    with Memory.allocate(kind, MEBIBYTE) as memory:
        memory.populate(0, MEBIBYTE)
        memory.write(0, b"parent")
        with memory.buffer(0, 6) as view:
            child = os.fork()
            if not child:
                found = bytes(view)
                os._exit({bytes(6): 10, b"parent": 11}.get(found, 12))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (11 if kind is MemoryKind.MEMFD else 10)
        assert memory.read(0, 6) == b"parent"


def test_populating_that_is_interrupted_for_ever_gives_up() -> None:
    kernel = FaultyKernel(SimKernel())
    with Memory.allocate(MemoryKind.MEMFD, MEBIBYTE, kernel=kernel) as memory:
        kernel.arm(*(Fault(nth, name="madvise", errno=errno.EINTR) for nth in range(99)))
        memory.populate(0, MEBIBYTE)
        kernel.arm(Fault(name="madvise", errno=errno.EINTR))
        with pytest.raises(MemoryUnavailable, match="signals interrupted it 100 times") as caught:
            memory.populate(0, MEBIBYTE)
        assert caught.value.errno == errno.EINTR
        assert len(kernel.calls) == 100


@pytest.mark.parametrize("size", [1, 64, 65, 4096])
def test_a_small_copy_takes_a_short_way(size: int) -> None:
    """As many lines for any size and offset, and few of them: a register of a ring is read a million times a second."""
    with Memory.allocate(MemoryKind.ANONYMOUS, 2 * MEBIBYTE) as memory:
        data = bytes(range(256)) * 16
        assert lines_run(lambda: memory.write(size + 3, data[:size])) < 18
        assert lines_run(lambda: memory.read(size + 3, size)) < 18
        assert memory.read(size + 3, size) == data[:size]
        for offset, length in ((-1, 1), (0, 0), (0, -1), (2 * MEBIBYTE, 1), (0, 2 * MEBIBYTE + 1)):
            with pytest.raises(InvalidArgument):
                memory.read(offset, length)
