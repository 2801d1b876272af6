"""Closing: what is closed can be had anew, a forked child gives up copies, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable

import pytest

from pyvfio import (
    ClosedError,
    Container,
    Device,
    InterruptIndex,
    Ioas,
    Memory,
    MemoryKind,
    PowerManagement,
    RegionIndex,
    StillMapped,
)
from pyvfio.abi import iommufd, vfio
from pyvfio.faults import FaultyKernel
from pyvfio.faults.rules import Before, Hold
from pyvfio.noiommu import UnsafePhysicalMemory
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.plain import PlainDevice
from tests.support.interpreter import output

DEVICE = "0000:00:03.0"
PLAIN = "0000:01:00.0"
IOVA = 0x1_0000_0000
PATIENCE = 10.0
SPACES = [(Container, vfio.VFIO_IOMMU_MAP_DMA), (Ioas, iommufd.IOMMU_IOAS_MAP)]


@pytest.fixture
def kernel() -> FaultyKernel:
    simulated = SimKernel(edu_devices=1)
    simulated.add(PciFunction(PLAIN, group=20, driver="vfio-pci", model=PlainDevice))
    return FaultyKernel(simulated)


@pytest.mark.parametrize("space", [Container, Ioas])
def test_a_part_that_was_closed_is_made_anew(kernel: FaultyKernel, space: type[Container | Ioas]) -> None:
    with space(kernel=kernel) as opened:
        device = opened.open_device(DEVICE)
        for _ in range(3):
            with device.region(0) as bar:
                assert bar is device.region(0)
                assert bar.read32(0) == 0x0100_00ED
            with device.interrupts(InterruptIndex.MSI) as interrupts:
                interrupts.enable()
                assert device.interrupts(InterruptIndex.MSI).enabled == 1
            assert interrupts.closed


def test_config_space_works_as_long_as_its_device_is_open(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        device = container.open_device(PLAIN)
        config = device.config
        power = config.find(PowerManagement)
        assert power is not None
        with device.region(RegionIndex.CONFIG) as region:
            assert region.read16(0) == config.vendor_id
        config.enable_bus_master()
        assert power.state == 0
        assert not hasattr(config.region, "close")
        device.reset()
        assert device.config.bus_master == config.bus_master
        assert device.region(RegionIndex.CONFIG).read16(0) == config.vendor_id


def test_an_unmask_event_that_was_closed_is_made_anew(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        interrupts = container.open_device(DEVICE).interrupts(InterruptIndex.INTX)
        interrupts.enable()
        interrupts.unmask_event().close()
        interrupts.unmask_event().signal()


@pytest.mark.parametrize("nth", range(6))
def test_ctrl_c_in_the_middle_of_closing_comes_after_everything_is_closed(kernel: FaultyKernel, nth: int) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    container = Container(kernel=kernel)
    device = container.open_device(DEVICE)
    device.interrupts(InterruptIndex.MSI).enable()
    device.region(0).read32(0)
    before = len(os.listdir("/proc/self/fd"))
    kernel.arm(Before(nth, action=interrupt))
    with pytest.raises(KeyboardInterrupt):
        container.close()
    assert container.closed
    assert device.closed
    # Of four, at most the one is open whose closing was interrupted.
    assert len(os.listdir("/proc/self/fd")) <= before - 3


@pytest.mark.parametrize(("space", "request_"), SPACES)
def test_a_device_is_used_while_its_address_space_maps(
    kernel: FaultyKernel, space: type[Container | Ioas], request_: int
) -> None:
    done: list[int] = []

    def use(device: Device) -> None:
        with device.region(0) as bar, device.interrupts(InterruptIndex.MSI) as interrupts:
            interrupts.enable()
            done.append(bar.read32(0))

    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel) as memory,
        space(kernel=kernel) as opened,
    ):
        device = opened.open_device(DEVICE)
        hold = Hold(0, "ioctl", request_)
        kernel.arm(hold)
        mapping = threading.Thread(target=opened.map_dma, args=(IOVA, memory, 0, memory.size))
        mapping.start()
        assert hold.reached.wait(PATIENCE)
        using = threading.Thread(target=use, args=(device,), daemon=True)
        using.start()
        using.join(PATIENCE)
        is_held_up = using.is_alive()
        hold.released.set()
        mapping.join()
        using.join()
        opened.unmap_all()
    assert not is_held_up
    assert done == [0x0100_00ED]


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a forked process that does act: 0 if it raised nothing and did not hang."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(5)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("space", "request_"), SPACES)
def test_a_forked_child_waits_for_no_lock_that_a_thread_held(
    kernel: FaultyKernel, space: type[Container | Ioas], request_: int
) -> None:
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 2 << 20, kernel=kernel) as memory,
        # Another one, because mapping waits for who discards the same memory.
        Memory.allocate(MemoryKind.ANONYMOUS, 2 << 20, kernel=kernel) as discarded,
        space(kernel=kernel) as opened,
    ):
        device = opened.open_device(DEVICE)
        interrupts = device.interrupts(InterruptIndex.MSI)
        interrupts.enable()
        view = memory.buffer(0, 16)
        holds = [Hold(0, "ioctl", request_), Hold(0, "madvise"), Hold(0, "ioctl", vfio.VFIO_DEVICE_SET_IRQS)]
        steps: list[Callable[[], object]] = [
            lambda: opened.map_dma(IOVA, memory, 0, 1 << 20),
            lambda: discarded.discard(1 << 20, 1 << 20),
            interrupts.trigger,
            lambda: device.region(0),
        ]
        kernel.arm(*holds)
        threads = [threading.Thread(target=step) for step in steps]
        for thread in threads:
            thread.start()
        are_reached = [hold.reached.wait(PATIENCE) for hold in holds]

        def child() -> None:
            kernel.arm()
            view.release()
            for each in (interrupts, device, opened, memory, discarded):
                each.close()
                assert each.closed

        def child_of_child() -> None:
            assert in_child(child) == 0
            child()

        status = in_child(child_of_child)
        for hold in holds:
            hold.released.set()
        for thread in threads:
            thread.join()
        assert all(are_reached)
        assert status == 0
        assert not opened.closed
        assert interrupts.pending() == 1
        assert opened.unmap_all() == 1 << 20


def test_a_forked_child_waits_for_no_lock_of_an_eventfd(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        device = container.open_device(DEVICE)
        event = device.interrupts(InterruptIndex.INTX)
        event.enable()
        unmask = event.unmask_event()
        held, released = threading.Event(), threading.Event()

        def hold() -> None:
            with unmask._lock:
                held.set()
                released.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        status = in_child(unmask.close)
        released.set()
        thread.join()
        assert status == 0
        unmask.signal()


def test_reading_memory_beside_its_close_is_an_error_and_no_crash() -> None:
    source = """
    import sys, threading
    from pyvfio import ClosedError, Memory, MemoryKind
    sys.setswitchinterval(1e-6)
    def use(memory, act):
        try:
            while True:
                act(memory)
        except ClosedError:
            pass
    def view(memory):
        with memory.buffer(0, 4096) as view:
            bytes(view)
    acts = [lambda m: m.read(0, 4096), lambda m: m.write(0, b"x" * 4096), lambda m: m.resident(0, 4096),
            lambda m: m.populate(0, 4096), view]
    for number in range(1500):
        memory = Memory.allocate(MemoryKind.MEMFD, 4096)
        thread = threading.Thread(target=use, args=(memory, acts[number % len(acts)]))
        thread.start()
        memory.close()
        thread.join()
        assert not memory.address
    print("survived")
    """
    assert output(source) == "survived\n"


def test_pages_whose_physical_address_a_device_has_are_neither_discarded_nor_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = SimKernel(host_huge_pages=False)
    monkeypatch.setattr(UnsafePhysicalMemory, "_look_up", lambda _: [0x4000_0000])
    memory = Memory.allocate(MemoryKind.HUGETLB, 4 << 20, kernel=kernel)
    with UnsafePhysicalMemory(memory, 0, 2 << 20) as physical:
        with pytest.raises(StillMapped, match="0x4000_0000"):
            memory.discard(0, 2 << 20)
        memory.discard(2 << 20, 2 << 20)
        memory.close()
        assert memory.address
        assert physical.address(0x1000) == 0x4000_1000
    assert not memory.address


def test_a_closed_object_says_so(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container, container.open_device(DEVICE).region(0) as bar:
        pass
    with pytest.raises(ClosedError, match="it is closed"):
        bar.read32(0)
