"""Memory whose file was taken away: an error, or zeros for who still has a view; never a crash, never another file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio import Kernel, LinuxKernel, MemoryUnavailable, SharedMemory, VfioError
from pyvfio.sim import SimKernel
from tests.support.interpreter import output

SIZE = 1 << 20


@pytest.fixture(params=[LinuxKernel, SimKernel])
def memory(request: pytest.FixtureRequest) -> Iterator[SharedMemory]:
    kernel: Kernel = request.param()
    with SharedMemory(SIZE, kernel=kernel) as memory:
        yield memory


def file(content: bytes) -> int:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, content, 0)
    return fd


def test_touching_detached_memory_is_an_error_and_no_crash() -> None:
    source = """
    from pyvfio import MemoryUnavailable, SharedMemory
    memory = SharedMemory(1 << 20)
    for use in (lambda: memory.read(0, 4), lambda: memory.write(0, b"1234"), memory.buffer,
                lambda: memory.populate(0, 4096)):
        try:
            use()
        except MemoryUnavailable as error:
            print(error.errno, error.operation)
    print(memory.resident(0, 4096))
    """
    assert output(source) == "6 read\n6 write\n6 buffer\n6 populate\n0\n"


def test_a_view_that_outlives_the_file_reads_zeros_and_touches_nothing() -> None:
    source = """
    import os, resource
    from pyvfio import SharedMemory
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 1 << 20)
    memory = SharedMemory(1 << 20)
    memory.attach(os.dup(fd))
    view = memory.buffer()
    view[:4] = b"here"
    memory.detach()
    print(bytes(view[:4]), os.pread(fd, 4, 0))
    view[:] = b"x" * len(view)
    print(os.pread(fd, 4, 0))
    memory.close()
    print(bytes(view[:4]), bool(memory.address))
    del view
    print(bool(memory.address))
    """
    assert output(source) == "b'\\x00\\x00\\x00\\x00' b'here'\nb'here'\nb'xxxx' True\nFalse\n"


def test_a_view_never_comes_to_show_another_file(memory: SharedMemory) -> None:
    memory.attach(file(b"one"))
    view = memory.buffer(0, 3)
    other = file(b"two")
    for _ in range(2):
        with pytest.raises(VfioError, match="1 buffers of what was attached before are in use") as refused:
            memory.attach(other)
        assert refused.value.errno == errno.EBUSY
        assert bytes(view) == (b"one" if memory.attached else bytes(3))
        memory.detach()
    view.release()
    del view
    memory.attach(other)
    assert memory.read(0, 3) == b"two"


def test_what_was_written_to_a_view_of_nothing_is_gone_with_it(memory: SharedMemory) -> None:
    memory.attach(file(b"one"))
    view = memory.buffer()
    memory.detach()
    view[:] = b"x" * SIZE
    assert memory.kernel.mincore(memory.address, SIZE).count(1) == SIZE // 4096
    del view
    assert memory.kernel.mincore(memory.address, SIZE).count(1) == 0
    with pytest.raises(MemoryUnavailable):
        memory.read(0, 1)


def test_a_file_is_let_go_of_although_somebody_has_a_view() -> None:
    memory = SharedMemory(SIZE)
    ours = os.memfd_create("let go of")
    os.ftruncate(ours, SIZE)
    memory.attach(ours)
    view = memory.buffer()
    memory.detach()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:let go of" in line]
    assert mapped == []
    del view
    memory.close()
