"""The addresses of shared memory are its own, whichever file comes and goes, and whatever fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pyvfio import SharedMemory, VfioError
from pyvfio.kernel import LinuxKernel

PAGE = 4096
SIZE = 16 * PAGE


class Refusing(LinuxKernel):
    """refuses: whether a file is not mapped, after what was at its address has gone, as Linux may do it."""

    refuses = False

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        if self.refuses and fd >= 0:
            self.munmap(address, length)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return super().mmap(length, protection, flags, fd, offset, address)


@pytest.fixture
def kernel() -> Refusing:
    return Refusing()


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * SIZE)
    yield fd
    os.close(fd)


def what_is_at(address: int) -> str:
    """The permissions and the file of what is mapped at an address; "" for nothing."""
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 (procfs)
        for line in maps:
            words = line.split()
            first, _, last = words[0].partition("-")
            if int(first, 16) <= address < int(last, 16):
                return " ".join([words[1], *words[5:]])
    return ""


def test_without_a_file_the_addresses_are_reserved_again(kernel: Refusing, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        assert what_is_at(memory.address) == "---p"
        memory.attach(os.dup(file))
        assert what_is_at(memory.address) == "rw-s /memfd:guest (deleted)"
        memory.detach()
        assert what_is_at(memory.address) == "---p"


def test_an_attach_that_fails_is_undone(kernel: Refusing, file: int) -> None:
    """Nothing is attached, the addresses are kept, and the descriptor is still the caller's."""
    fd = os.dup(file)
    with SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(os.dup(file))
        kernel.refuses = True
        with pytest.raises(VfioError, match="attach memory"):
            memory.attach(fd)
        assert (memory.attached, what_is_at(memory.address)) == (False, "---p")
        os.fstat(fd)
        kernel.refuses = False
        memory.attach(fd, PAGE)
        assert (memory.attached, memory.file_offset) == (True, PAGE)


def test_no_other_file_comes_under_a_view(kernel: Refusing, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(os.dup(file))
        view = memory.buffer()
        with pytest.raises(VfioError, match="buffers of what was attached before are in use"):
            memory.attach(fd := os.dup(file))
        os.close(fd)
        view.release()


def test_a_file_that_another_one_replaces_is_closed(kernel: Refusing, file: int) -> None:
    with SharedMemory(SIZE, kernel=kernel) as memory:
        memory.attach(before := os.dup(file))
        memory.attach(os.dup(file))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(before)


def test_memory_that_is_mapped_twice_is_held_once_and_released_with_its_last_user(kernel: Refusing) -> None:
    class User:
        def iova_of(self, memory: object, offset: int, size: int) -> int | None:
            del memory, offset, size
            return None

    memory, user = SharedMemory(SIZE, kernel=kernel), User()
    address = memory.address
    memory.hold(user)
    memory.close()
    assert what_is_at(address) == "---p"
    memory.release(user)
    assert memory.address == 0
