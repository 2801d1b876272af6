"""What is dropped open is told and closed, whatever the thread was doing that the collector interrupted."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from pyvfio import (
    Container,
    EventFd,
    FaultQueue,
    Group,
    GroupBusy,
    InterruptIndex,
    Ioas,
    Iommufd,
    LinuxKernel,
    Memory,
    MemoryKind,
)
from pyvfio.abi import vfio
from pyvfio.faults import FaultyKernel
from pyvfio.faults.rules import Before, Hold
from pyvfio.sim import SimKernel
from tests.support.interpreter import output

DEVICE, OTHER = "0000:00:03.0", "0000:00:04.0"
IOVA = 0x1_0000_0000
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """It runs when a test says so, and not before. What tests before have left goes first, finalizers and all."""
    while gc.collect():
        pass
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def kernel() -> FaultyKernel:
    return FaultyKernel(SimKernel(edu_devices=2))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def drops_container(kernel: FaultyKernel) -> None:
    device = Container(kernel=kernel).open_device(DEVICE)
    device.interrupts(InterruptIndex.MSI).enable()
    device.region(0).read32(0)
    device.features.probe(0)


def drops_ioas(kernel: FaultyKernel) -> None:
    Ioas(kernel=kernel).open_device(DEVICE).interrupts(InterruptIndex.MSI).enable()


def drops_iommufd(kernel: FaultyKernel) -> None:
    iommufd = Iommufd(kernel=kernel)
    Ioas(iommufd).open_device(DEVICE)
    FaultQueue(iommufd)


def drops_mapped(kernel: FaultyKernel) -> None:
    memory = Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel)
    container = Container(kernel=kernel)
    container.open_device(DEVICE)
    container.map_dma(IOVA, memory, 0, memory.size)


@pytest.mark.parametrize(
    ("drops", "told"),
    [
        (drops_container, ["<Container /dev/vfio/vfio>"]),
        (drops_ioas, ["<Ioas 1>"]),
        (drops_iommufd, ["<Iommufd /dev/iommu>"]),
        (drops_mapped, ["<Container /dev/vfio/vfio>", "<Memory anon 0x10_0000>"]),
        (lambda kernel: Group(3, kernel=kernel), ["<Group 3>"]),
        (lambda kernel: EventFd(kernel, "x"), ["<EventFd x>"]),
        (lambda _: Memory.allocate(MemoryKind.MEMFD, 1 << 20, kernel=LinuxKernel()), ["<Memory memfd 0x10_0000>"]),
    ],
)
def test_what_is_dropped_is_told_once_and_closed(
    kernel: FaultyKernel, drops: Callable[[FaultyKernel], object], told: list[str]
) -> None:
    before = descriptors()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drops(kernel)
        gc.collect()
    assert descriptors() == before
    assert sorted(str(each.message) for each in said) == [f"{name} was never closed" for name in told]
    assert {each.category for each in said} == {ResourceWarning}
    assert isinstance(kernel.kernel, SimKernel)
    assert kernel.kernel.locked_bytes == 0


def test_a_child_that_is_not_kept_stays_open_with_its_parent(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        container.open_device(DEVICE).interrupts(InterruptIndex.MSI).enable()
        gc.collect()
        assert container.open_device(OTHER).region(0).read32(0) == 0x0100_00ED
        assert container.groups[0].attached


def test_a_child_that_is_kept_keeps_its_parent(kernel: FaultyKernel) -> None:
    device = Container(kernel=kernel).open_device(DEVICE)
    gc.collect()
    assert device.region(0).read32(0) == 0x0100_00ED
    device.outermost.close()
    assert device.closed


@pytest.mark.parametrize("space", [Container, Ioas])
@pytest.mark.parametrize("other", [Container, Ioas])
def test_the_same_cell_run_twice_opens_the_device_again(
    kernel: FaultyKernel, space: type[Container | Ioas], other: type[Container | Ioas]
) -> None:
    def cell(space: type[Container | Ioas]) -> int:
        return space(kernel=kernel).open_device(DEVICE).region(0).read32(0)

    assert cell(space) == 0x0100_00ED
    with pytest.warns(ResourceWarning, match="was never closed"):
        assert cell(other) == 0x0100_00ED
    with pytest.warns(ResourceWarning, match="was never closed"):
        gc.collect()


def test_a_group_that_is_busy_elsewhere_is_not_looked_for_here(
    kernel: FaultyKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = kernel.open("/dev/vfio/3", os.O_RDWR)
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("the collector was asked"))
    with Container(kernel=kernel) as container:
        container.open_device(OTHER)
        with pytest.raises(GroupBusy, match="in another process or through a descriptor that no object here owns"):
            Group(3, kernel=kernel)
    kernel.close(fd)


def test_a_group_that_is_busy_here_is_said_to_be(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        container.open_device(DEVICE)
        with pytest.raises(
            GroupBusy, match="this process has it open already: <Group 3> of <Container /dev/vfio/vfio>"
        ):
            Group(3, kernel=kernel)
    with Ioas(kernel=kernel) as ioas:
        ioas.open_device(DEVICE)
        with pytest.raises(GroupBusy, match=f"this process has it open already: <Device {DEVICE}> of <Iommufd"):
            Group(3, kernel=kernel)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_the_collector_finds_in_the_middle_of_a_call_is_closed_by_another_thread(kernel: FaultyKernel) -> None:
    closers: list[int] = []

    def dropping() -> None:
        drops_container(kernel)
        kernel.arm(Before(name="close", action=lambda: closers.append(threading.get_ident())))
        with pytest.warns(ResourceWarning, match="<Container /dev/vfio/vfio> was never closed"):
            gc.collect()

    before = descriptors()
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel) as memory,
    ):
        container.open_device(OTHER)
        kernel.arm(Before(0, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, action=dropping))
        container.map_dma(IOVA, memory, 0, memory.size)
        wait_until(lambda: len(closers) == 4)
        assert threading.get_ident() not in closers
        kernel.arm()
        container.unmap_all()
    wait_until(lambda: descriptors() == before)


def test_a_thread_that_runs_the_collector_waits_for_no_lock_of_another(kernel: FaultyKernel) -> None:
    """One thread has the lock of a Memory; in another, the collector finds a container that maps this memory."""
    shared = Memory.allocate(MemoryKind.ANONYMOUS, 2 << 20, kernel=kernel)
    memory = Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel)
    before = descriptors()
    dropped = [Container(kernel=kernel)]
    dropped[0].open_device(DEVICE)
    dropped[0].map_dma(IOVA, shared, 0, 1 << 20)

    def dropping() -> None:
        dropped.clear()
        with pytest.warns(ResourceWarning, match="was never closed"):
            gc.collect()

    with Container(kernel=kernel) as other:
        other.open_device(OTHER)
        hold = Hold(0, "madvise")
        kernel.arm(hold, Before(0, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, action=dropping))
        discarding = threading.Thread(target=shared.discard, args=(1 << 20, 1 << 20))
        discarding.start()
        assert hold.reached.wait(PATIENCE)
        mapping = threading.Thread(target=other.map_dma, args=(IOVA, memory, 0, memory.size), daemon=True)
        mapping.start()
        mapping.join(PATIENCE)
        is_stuck = mapping.is_alive()
        hold.released.set()
        discarding.join()
        assert not is_stuck
    wait_until(lambda: descriptors() == before)
    shared.close()
    memory.close()
    assert not shared.address


REAL = """
    import gc, os, sys, warnings
    from pyvfio import *
    from pyvfio.sim import SimKernel
    def descriptors(): return len(os.listdir("/proc/self/fd"))
"""


def test_a_warning_that_is_an_error_does_not_keep_anything_open() -> None:
    source = f"""{REAL}
    sys.unraisablehook = lambda raised: None
    before = descriptors()
    for _ in range(50):
        EventFd(LinuxKernel()), Memory.allocate(MemoryKind.MEMFD, 1 << 20)
    print(descriptors() - before)
    """
    assert output(source, "-W", "error") == "0\n"


@pytest.mark.parametrize("options", [(), ("-X", "dev"), ("-W", "error")])
def test_what_is_open_when_the_interpreter_ends_makes_no_noise(options: tuple[str, ...]) -> None:
    source = f"""{REAL}
    kernel = SimKernel(edu_devices=1)
    container = Container(kernel=kernel)
    device = container.open_device("0000:00:03.0")
    device.interrupts(InterruptIndex.MSI).enable()
    region = device.region(0)
    region.read32(0)
    memory = Memory.allocate(MemoryKind.MEMFD, 1 << 20, kernel=kernel)
    container.map_dma(0x100000000, memory, 0, memory.size)
    view = memory.buffer()
    event = EventFd(kernel)
    cycle = [Ioas(kernel=kernel)]
    cycle.append(cycle)
    print("ends")
    """
    assert output(source, *options) == "ends\n"


def test_a_drop_in_a_forked_child_gives_up_copies_and_says_nothing() -> None:
    source = f"""{REAL}
    kernel = SimKernel(edu_devices=1)
    before = descriptors()
    container = Container(kernel=kernel)
    container.open_device("0000:00:03.0").interrupts(InterruptIndex.MSI).enable()
    event = EventFd(kernel)
    child = os.fork()
    if not child:
        del container, event
        gc.collect()
        os._exit(descriptors() - before)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(container.groups, event.pending())
    container.close()
    event.close()
    """
    assert output(source, "-W", "error") == "0\n(<Group 3>,) 0\n"


def test_a_view_that_outlives_its_memory_is_the_last_to_keep_it() -> None:
    memory = Memory.allocate(MemoryKind.MEMFD, 1 << 20, kernel=LinuxKernel())
    view = memory.buffer(0, 4)
    before = descriptors()
    # The finalizer of the view refers to the memory.
    del memory
    view[:] = b"kept"
    assert descriptors() == before
    with pytest.warns(ResourceWarning, match="memfd"):
        del view
    assert descriptors() == before - 1
