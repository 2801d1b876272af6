"""Mapped registers on the running kernel and the running interpreter: one access each, and none after release."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from pyvfio import ClosedError, InvalidArgument, Memory, MemoryKind, memory_barrier
from pyvfio.abi import mman
from pyvfio.kernel import LinuxKernel, WindowReleased, host_page_size, octets_of
from pyvfio.kernel.barrier import barrier_instruction
from pyvfio.kernel.window import LinuxWindow
from tests.support.kernels.file_device import MemoryDevice

PAGES = 400
PAGE = host_page_size()
# linux/fs.h and linux/fiemap.h: _IOWR('f', 11, struct fiemap), whose flags are at byte 16. Flags that a filesystem does
# not know come back with EBADR: one of the few calls that fail and say why in their argument.
EXTENTS, EXTENT_FLAGS, UNKNOWN_FLAG = 0xC020_660B, 16, 1 << 30


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("access", ["write", "write_register"])
def test_a_write_is_one_store_and_no_load(width: int, access: str) -> None:
    """A page that has never been touched: a store alone is one page fault. A load before it would be one more, as that
    maps the page of zeros first."""
    with MemoryDevice(PAGES * PAGE).open_device() as device:
        region = device.region(0)
        region.read8(0)
        write = getattr(region, f"write{width}")
        places = range(PAGE, PAGES * PAGE, PAGE)
        before = page_faults()
        if access == "write":
            for place in places:
                write(place, 1)
        else:
            for place in places:
                region.write_register(place, width // 8, 1)
        stores = page_faults() - before
        assert 0.9 < stores / (PAGES - 1) < 1.2
        assert region.read8(5 * PAGE) == 1


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_window_stores_without_a_load(width: int) -> None:
    kernel = MemoryDevice()
    address = kernel.mmap(PAGES * PAGE, mman.PROT_READ | mman.PROT_WRITE, 0)
    window = kernel.window(address, PAGES * PAGE)
    before = page_faults()
    for place in range(0, PAGES * PAGE, PAGE):
        window.store(place, width, 1)
    stores = page_faults() - before
    window.release()
    kernel.munmap(address, PAGES * PAGE)
    assert 0.9 < stores / PAGES < 1.2


_CLOSE_UNDER_A_READER = """
import sys, threading
from pyvfio import ClosedError
from tests.support.kernels.file_device import MemoryDevice
sys.setswitchinterval(1e-6)
for _ in range(1500):
    device = MemoryDevice().open_device()
    region = device.region(0)
    region.read32(0)
    def use():
        try:
            while True:
                region.read32(0)
                region.write64(8, 1)
        except ClosedError:
            pass
    thread = threading.Thread(target=use)
    thread.start()
    device.close()
    thread.join()
print("survived")
"""


def test_a_device_may_be_closed_while_another_thread_uses_its_registers() -> None:
    done = subprocess.run([sys.executable, "-c", _CLOSE_UNDER_A_READER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_a_forked_child_does_not_touch_its_parent_s_device() -> None:
    with MemoryDevice().open_device() as device:
        region = device.region(0)
        region.write32(0, 7)
        child = os.fork()
        if not child:
            code = 1
            try:
                region.write32(0, 8)
            except ClosedError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_released_window_touches_nothing() -> None:
    memory = ctypes.create_string_buffer(64)
    window = LinuxWindow(ctypes.addressof(memory), 64)
    view = window.views[4]
    window.store(4, 4, 7)
    assert (window.load(4, 4), view[1], window.released) == (7, 7, False)
    with pytest.raises(ValueError, match="invalid value"):
        window.store(0, 1, 256)
    window.release()
    window.release()
    assert window.released
    for access in (lambda: window.load(4, 4), lambda: window.store(4, 4, 8)):
        with pytest.raises(WindowReleased):
            access()
    with pytest.raises(ValueError, match="released"):
        view[1]
    assert memory.raw[4] == 7


def test_registers_are_little_endian_on_every_processor() -> None:
    memory = ctypes.create_string_buffer(64)
    # As a processor of the other order has it in memory, seen by one of this order.
    window = LinuxWindow(ctypes.addressof(memory), 64, byteorder="big")
    for width in (1, 2, 4, 8):
        value = 0x1122_3344_5566_7788 >> 64 - 8 * width
        window.store(0, width, value)
        assert memory.raw[:width] == value.to_bytes(width, "big" if sys.byteorder == "little" else "little")
        assert window.load(0, width) == value
    assert list(window.views) == [1]


def test_a_barrier_can_be_issued() -> None:
    memory_barrier()
    for _ in range(3):
        barrier_instruction(platform.machine())()
    with pytest.raises(OSError, match="the barrier of a vax processor is not known") as caught:
        barrier_instruction("vax")
    assert caught.value.errno == errno.ENOSYS


def test_an_argument_is_written_in_place_when_the_call_fails(tmp_path: Path) -> None:
    kernel = LinuxKernel()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    fd = kernel.open(str(path), os.O_RDONLY)
    # From the file's first byte to its last, with no room for an extent.
    argument = ctypes.create_string_buffer(struct.pack("=QQIIII", 0, 1 << 40, 1 | UNKNOWN_FLAG, 0, 0, 0), 32)
    try:
        kernel.ioctl(fd, EXTENTS, argument)
        pytest.fail("the flag is known")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            pytest.skip("this filesystem does not tell of extents")
        code = error.errno
    finally:
        kernel.close(fd)
    assert code == errno.EBADR
    assert struct.unpack_from("=I", argument, EXTENT_FLAGS) == (UNKNOWN_FLAG,)


def test_memory_takes_the_bytes_of_any_buffer() -> None:
    numbers = array("I", range(16))
    with Memory.allocate(MemoryKind.ANONYMOUS, PAGE) as memory:
        memory.write(8, numbers)
        assert memory.read(8, 64) == numbers.tobytes()
        with pytest.raises(InvalidArgument, match="outside the memory"):
            memory.write(PAGE - 16, numbers)


def test_a_buffer_counts_its_bytes() -> None:
    numbers = array("I", range(16))
    assert bytes(octets_of(numbers)) == numbers.tobytes()
    assert len(octets_of(memoryview(numbers))) == 64
    assert len(octets_of(b"")) == len(octets_of(array("I"))) == 0
    with pytest.raises(InvalidArgument, match="side by side"):
        octets_of(memoryview(bytes(16))[::2])
    with MemoryDevice(64).open_device() as device, pytest.raises(InvalidArgument, match="outside the region of 0x40"):
        device.region(0).write(16, numbers)


def test_bytes_that_lie_side_by_side_in_another_order_are_refused() -> None:
    """Items of several dimensions, the first index the fastest, as Fortran has them and numpy knows."""
    buffers = pytest.importorskip("_testbuffer", reason="CPython's own test module makes such a buffer")
    columns = buffers.ndarray(list(range(12)), shape=[3, 4], flags=buffers.ND_FORTRAN)
    with pytest.raises(InvalidArgument, match="do not lie side by side"):
        octets_of(columns)
