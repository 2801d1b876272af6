"""Memory that is a part of somebody else's file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pyvfio import Container, InvalidArgument, Ioas, Kernel, MemoryUnavailable, SharedMemory, StillMapped, VfioError
from pyvfio.drivers.edu import Edu, edu_addresses
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


@pytest.mark.parametrize("version", [(6, 12), (6, 13), (7, 2)])
@pytest.mark.parametrize("space_of", [Container, Ioas])
def test_a_device_reaches_its_part_of_the_file(
    space_of: type[Container | Ioas], version: tuple[int, int], file: int
) -> None:
    """From Linux 6.13 on an Ioas maps the file itself, not the addresses of this process."""
    kernel = SimKernel(edu_devices=1, version=version)
    with space_of(kernel=kernel) as space, SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(os.dup(file), 2 * SIZE)
        memory.write(PAGE, b"guest's own")
        with Edu(space.open_device(edu_addresses(kernel)[0])) as edu:
            space.map_dma(IOVA, memory, PAGE, 2 * PAGE)
            edu.fetch(IOVA, 11)
            edu.store(IOVA + PAGE, 11)
            space.unmap_all()
        assert memory.read(2 * PAGE, 11) == b"guest's own"
        written = [at for at in range(0, 4 * SIZE, PAGE) if os.pread(file, PAGE, at).strip(b"\0")]
        assert written == [2 * SIZE + PAGE, 2 * SIZE + 2 * PAGE]


def test_the_same_file_again_stays_open(kernel: Kernel, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        fd = os.dup(file)
        memory.attach(fd)
        memory.attach(fd, SIZE)
        memory.write(0, b"second part")
        assert os.pread(file, 11, SIZE) == b"second part"
        with pytest.raises(VfioError):
            memory.attach(fd, PAGE - 1)
        assert not memory.attached
        memory.attach(fd)
        memory.detach()
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(fd)
