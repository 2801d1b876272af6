"""Memory that is a part of somebody else's file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pyvfio import Container, InvalidArgument, Kernel, MemoryUnavailable, SharedMemory, StillMapped, VfioError
from pyvfio.sim import SimKernel

PAGE = 4096
SIZE = 16 * PAGE
IOVA = 0x1_0000_0000


@pytest.fixture
def kernel() -> Kernel:
    return SimKernel(edu_devices=1)


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * SIZE)
    yield fd
    os.close(fd)


def test_it_is_the_file_from_the_offset(kernel: Kernel, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        address = memory.address
        memory.attach(os.dup(file), SIZE)
        assert memory.address == address
        memory.write(5, b"ours")
        assert os.pread(file, 4, SIZE + 5) == b"ours"
        os.pwrite(file, b"theirs", SIZE + PAGE)
        assert memory.read(PAGE, 6) == b"theirs"


def test_discarding_reaches_only_its_part_of_the_file(kernel: Kernel, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        os.pwrite(file, b"x" * (3 * SIZE), 0)
        memory.attach(os.dup(file), SIZE)
        memory.discard(PAGE, 2 * PAGE)
        assert os.fstat(file).st_blocks * 512 == 3 * SIZE - 2 * PAGE
        assert os.pread(file, SIZE, SIZE) == b"x" * PAGE + bytes(2 * PAGE) + b"x" * (SIZE - 3 * PAGE)
        memory.populate(PAGE, 2 * PAGE)
        assert os.fstat(file).st_blocks * 512 == 3 * SIZE


def test_detached_it_is_nothing(kernel: Kernel, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        for _ in range(2):
            with pytest.raises(MemoryUnavailable, match="no file is attached"):
                memory.populate(0, SIZE)
            memory.discard(0, SIZE)
            memory.attach(os.dup(file))
            memory.populate(0, SIZE)
            memory.detach()
            memory.detach()


def test_another_file_at_the_same_address(kernel: Kernel, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(os.dup(file))
        memory.write(0, b"one")
        other = os.memfd_create("other")
        os.ftruncate(other, SIZE)
        memory.attach(other)
        assert memory.read(0, 3) == bytes(3)
        assert os.pread(file, 3, 0) == b"one"


def test_while_it_is_mapped_it_stays_attached(kernel: Kernel, file: int) -> None:
    with Container(kernel=kernel) as container, SharedMemory(SIZE, kernel=kernel) as memory:
        container.open_device("0000:00:03.0")
        memory.attach(os.dup(file))
        container.map_dma(IOVA, memory, 0, PAGE)
        with pytest.raises(StillMapped, match="Unmap it first"):
            memory.detach()
        with pytest.raises(StillMapped):
            memory.attach(file)
        assert memory.attached
        container.unmap_all()
        memory.detach()


def test_a_file_that_cannot_be_mapped(kernel: Kernel, file: int) -> None:
    readonly = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    with SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(os.dup(file))
        with pytest.raises(VfioError) as refused:
            memory.attach(readonly)
        assert refused.value.errno == errno.EACCES
        assert not memory.attached
        with pytest.raises(VfioError):
            memory.attach(file, 1)
        memory.attach(os.dup(file))
    os.close(readonly)


def test_closing_closes_the_file(kernel: Kernel, file: int) -> None:
    memory = SharedMemory(SIZE, kernel=kernel)
    ours = os.dup(file)
    memory.attach(ours)
    memory.close()
    memory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)


@pytest.mark.parametrize("page_size", [2 << 20, 1 << 30])
def test_files_of_huge_pages_get_addresses_that_fit(page_size: int) -> None:
    with SharedMemory(page_size, page_size=page_size) as memory:
        assert memory.address % page_size == 0
        with pytest.raises(InvalidArgument):
            memory.discard(PAGE, PAGE)
