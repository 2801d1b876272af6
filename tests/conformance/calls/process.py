"""Calls on the process and its files, memory and limits."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import ExitStack

from pyvfio.abi import mman
from pyvfio.abi.tainted import TAINT_USER, TAINTED
from pyvfio.host import bind, unbind
from pyvfio.kernel import read_text, write_text
from tests.conformance.bench import PAGE, Bench
from tests.conformance.calls.group import find
from tests.conformance.step import Reply, Step, call
from tests.support.capabilities import without_raw_io

TYPE1_PARAMETERS = "/sys/module/vfio_iommu_type1/parameters"


@call
def close(bench: Bench, *, name: str) -> Reply:
    bench.kernel.close(bench.fds.pop(name))
    return Reply()


@call
def spawn(bench: Bench, *, name: str = "child") -> Reply:
    """A second process with every descriptor that is open now."""
    bench.children[name] = bench.machine.child(bench)
    return Reply()


@call
def in_child(bench: Bench, *, step: Step, name: str = "child") -> Reply:
    """What the step changed there is in out; nothing of it is what this process is charged with."""
    reply = bench.children[name].run(step)
    changed = {"child_locked": reply.locked, "child_pinned": reply.pinned}
    return Reply(reply.error, reply.value, {**reply.out, **changed})


@call
def end_child(bench: Bench, *, name: str = "child") -> Reply:
    bench.children.pop(name).end()
    return Reply()


@call
def charges(bench: Bench) -> Reply:
    """Pages that are charged to the process."""
    state = bench.state()
    return Reply(out={"vm_lck": state.locked, "vm_pin": state.pinned})


@call
def open_memfd(bench: Bench, *, pages: int, name: str = "memfd") -> Reply:
    def opened() -> int:
        fd = bench.kernel.memfd_create("case", 0)
        bench.kernel.ftruncate(fd, pages * PAGE)
        return fd

    return bench.open(name, opened)


@call
def open_eventfd(bench: Bench, *, name: str = "eventfd") -> Reply:
    return bench.open(name, lambda: bench.kernel.eventfd(0, os.O_NONBLOCK))


@call
def open_file(bench: Bench, *, path: str = "/dev/null", name: str = "file") -> Reply:
    return bench.open(name, lambda: bench.kernel.open(path, os.O_RDWR))


@call
def limit_memlock(bench: Bench, *, pages: int, exempt: bool = False) -> Reply:
    """RLIMIT_MEMLOCK that many pages over what is charged now; exempt: with CAP_IPC_LOCK."""
    bench.undo_at_end(bench.machine.limit_memlock(pages * PAGE, exempt=exempt))
    return Reply()


@call
def add_virtual(bench: Bench) -> Reply:
    """A virtual function of the NVMe controller, until the case ends."""
    bench.undo_at_end(bench.machine.add_virtual())
    return Reply()


@call
def drop_raw_io(bench: Bench) -> Reply:
    """CAP_SYS_RAWIO, until the case ends."""
    dropped = ExitStack()
    dropped.enter_context(without_raw_io(bench.kernel))
    bench.undo_at_end(dropped.close)
    return Reply()


@call
def tainted_by_user(bench: Bench) -> Reply:
    """Whether the kernel is tainted by what it let a program do."""
    return Reply(value=int(bool(int(read_text(bench.kernel, TAINTED)) & TAINT_USER)))


@call
def mlock(bench: Bench, *, pages: int, memory: str = "anon", offset: int = 0) -> Reply:
    libc = ctypes.CDLL(None, use_errno=True)
    address, size = ctypes.c_void_p(bench.address(memory, offset)), ctypes.c_size_t(pages * PAGE)
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if libc.mlock(address, size):
        raise OSError(ctypes.get_errno(), f"mlock, with a hard limit of {hard}")
    bench.undo_at_end(lambda: libc.munlock(address, size))
    return Reply()


@call
def set_type1_parameter(bench: Bench, *, name: str, value: str) -> Reply:
    """Of the module, for containers that are opened from now on."""
    path = f"{TYPE1_PARAMETERS}/{name}"
    before = read_text(bench.kernel, path)
    bench.undo_at_end(lambda: write_text(bench.kernel, path, before))
    write_text(bench.kernel, path, value)
    return Reply()


@call
def allocate(bench: Bench, *, pages: int, name: str, protection: int = 3) -> Reply:
    """Private memory that the case may discard or unmap."""
    address = bench.kernel.mmap(pages * PAGE, protection, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
    bench.mapped[name] = (address, pages * PAGE)
    bench.places[name] = address
    return Reply()


@call
def free(bench: Bench, *, name: str) -> Reply:
    address, size = bench.mapped.pop(name)
    bench.kernel.munmap(address, size)
    return Reply()


@call
def punch(bench: Bench, *, name: str, first: int, pages: int = 1) -> Reply:
    """A hole in memory of the case."""
    bench.kernel.munmap(bench.address(name, first * PAGE), pages * PAGE)
    return Reply()


@call
def discard(bench: Bench, *, name: str, pages: int) -> Reply:
    bench.kernel.madvise(bench.address(name, 0), pages * PAGE, mman.MADV_DONTNEED)
    return Reply()


@call
def unbind_driver(bench: Bench, *, device: str) -> Reply:
    """Unbind a device from vfio-pci until the case ends."""
    address = find(bench, device).address
    unbind(bench.kernel, address)
    bench.undo_at_end(lambda: bind(bench.kernel, address))
    return Reply()
