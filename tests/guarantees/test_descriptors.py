"""Descriptors run out: an error that names the limit, wherever one is made, and nothing stays half open."""

from __future__ import annotations

import errno
import gc
import os
import resource
from collections.abc import Callable

import pytest

from pyvfio import (
    Container,
    EventFd,
    FaultQueue,
    Group,
    InterruptIndex,
    Ioas,
    Iommufd,
    Memory,
    MemoryKind,
    VfioError,
)
from pyvfio.abi import iommufd, vfio
from pyvfio.faults import FaultyKernel
from pyvfio.faults.rules import Fault
from pyvfio.iommufd import cdev_node
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.plain import PlainDevice
from pyvfio.sysfs import pci_device
from tests.support.interpreter import output

DEVICE = "0000:00:03.0"
PLAIN = "0000:01:00.0"


@pytest.fixture
def kernel() -> FaultyKernel:
    simulated = SimKernel(edu_devices=1)
    simulated.add(PciFunction(PLAIN, group=20, driver="vfio-pci", model=PlainDevice))
    return FaultyKernel(simulated)


def opens_device(kernel: FaultyKernel) -> object:
    with Container(kernel=kernel) as container:
        return container.open_device(DEVICE)


def opens_node(kernel: FaultyKernel) -> object:
    with Ioas(kernel=kernel) as ioas:
        return ioas.open_device(DEVICE)


def enables(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        interrupts = container.open_device(DEVICE).interrupts(InterruptIndex.MSI)
        try:
            interrupts.enable()
        finally:
            assert not interrupts.enabled


def unmasks(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        interrupts = container.open_device(DEVICE).interrupts(InterruptIndex.INTX)
        interrupts.enable()
        interrupts.unmask_event()


def makes_faults(kernel: FaultyKernel) -> None:
    with Iommufd(kernel=kernel) as opened:
        FaultQueue(opened)


def asks_feature(kernel: FaultyKernel) -> None:
    with Container(kernel=kernel) as container:
        container.open_device(PLAIN).migration()


ROWS: list[tuple[Callable[[FaultyKernel], object], str, int | None, int]] = [
    (lambda kernel: EventFd(kernel), "eventfd", None, 0),
    (lambda kernel: Container(kernel=kernel), "open", None, 0),
    (lambda kernel: Group(3, kernel=kernel), "open", None, 0),
    (lambda kernel: Iommufd(kernel=kernel), "open", None, 0),
    (lambda kernel: Ioas(kernel=kernel), "open", None, 0),
    (lambda kernel: Memory.allocate(MemoryKind.MEMFD, 4096, kernel=kernel), "memfd_create", None, 0),
    (lambda kernel: pci_device(kernel, DEVICE), "open", None, 0),
    (lambda kernel: cdev_node(kernel, DEVICE), "listdir", None, 0),
    (opens_device, "ioctl", vfio.VFIO_GROUP_GET_DEVICE_FD, 0),
    (enables, "eventfd", None, 0),
    (unmasks, "eventfd", None, 1),
    (makes_faults, "eventfd", None, 0),
    (makes_faults, "ioctl", iommufd.IOMMU_FAULT_QUEUE_ALLOC, 0),
    (asks_feature, "ioctl", vfio.VFIO_DEVICE_FEATURE, 0),
    *((opens_device, "open", None, nth) for nth in range(6)),
    *((opens_node, "open", None, nth) for nth in range(6)),
]


@pytest.mark.parametrize(("makes", "name", "request_", "nth"), ROWS)
def test_an_error_names_the_limit(
    kernel: FaultyKernel, makes: Callable[[FaultyKernel], object], name: str, request_: int | None, nth: int
) -> None:
    gc.collect()  # what earlier tests dropped is not to go in the middle of this one
    before = len(os.listdir("/proc/self/fd"))
    kernel.arm(Fault(nth, name, request_, errno=errno.EMFILE))
    with pytest.raises(VfioError) as raised:
        makes(kernel)
    assert raised.value.errno == errno.EMFILE
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"this process may have {limit} files open, and has them" in str(raised.value)
    assert "ulimit -n" in str(raised.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_vectors_under_a_low_limit() -> None:
    source = """
    import asyncio, os, resource
    from pyvfio import *
    from pyvfio.sim import PciFunction, SimKernel
    from pyvfio.sim.devices.plain import PlainDevice
    from pyvfio.host import LinuxUevents
    def model(bus):
        plain = PlainDevice(bus)
        plain.vectors = {**plain.vectors, 2: 512}
        plain.msix_table = (0, 0x2000, 16 * 512)
        return plain
    kernel = SimKernel()
    kernel.add(PciFunction("0000:01:00.0", group=20, driver="vfio-pci", model=model, host_vectors=2048))
    with Container(kernel=kernel) as container:
        interrupts = container.open_device("0000:01:00.0").interrupts(InterruptIndex.MSIX)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        before = len(os.listdir("/proc/self/fd"))
        try:
            interrupts.enable(512)
        except VfioError as error:
            print(type(error).__name__, error.errno, "64 files" in str(error))
        print(interrupts.enabled, len(os.listdir("/proc/self/fd")) - before)
        interrupts.enable(8)
        print(interrupts.enabled)
        async def waits():
            await interrupts.wait_async()
        loop = asyncio.new_event_loop()
        fill = []
        try:
            while True:
                fill.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for make in (lambda: loop.run_until_complete(waits()), LinuxUevents, lambda: Container(kernel=kernel)):
            try:
                make()
            except VfioError as error:
                print(error.errno, "64 files" in str(error))
        loop.close()
    """
    assert output(source) == "VfioError 24 True\n0 0\n8\n24 True\n24 True\n24 True\n"


def test_a_signal_leaves_no_descriptor_that_nobody_knows() -> None:
    """It comes as often as not when the kernel has opened and the program has no name for it yet."""
    source = """
    import os, signal
    from contextlib import suppress
    from pyvfio.kernel import LinuxKernel
    class Rung(Exception): pass
    def ring(*_): raise Rung
    kernel = LinuxKernel()
    directory = "/proc/self/fd"
    before = len(os.listdir(directory))
    signal.signal(signal.SIGALRM, ring)
    calls = [lambda: kernel.open("/dev/null", os.O_RDONLY), lambda: kernel.memfd_create("m", 0),
             lambda: kernel.eventfd(0, 0), lambda: kernel.dup(0)]
    left = 0
    for number in range(1200):
        kept = []
        with suppress(Rung):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + number % 7 * 0.00003)
                while True:
                    kept[:] = (calls[number % 4](),)
                    closing, kept[:] = kept[0], ()
                    os.close(closing)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        for fd in kept:
            os.close(fd)
    print(len(os.listdir(directory)) - before)
    """
    assert output(source) == "0\n"
