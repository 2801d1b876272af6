"""A call on a descriptor that another thread, or a signal handler, closes meanwhile reaches no other file."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from pyvfio import ClosedError, Container, Device, EventFd, Group, InterruptIndex, RegionIndex
from pyvfio.abi import vfio
from pyvfio.faults import Before, FaultyKernel, Hold, Rule
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.plain import IDS, PlainDevice

PLAIN = "0000:01:00.0"
PATIENCE = 10.0


def group_of(device: Device) -> Group:
    """The group that the device was opened through."""
    assert isinstance(device.group, Group)
    return device.group


@dataclass(frozen=True)
class Access:
    """A call on a device's descriptor: what makes it, and what the kernel's rule matches."""

    make: Callable[[Device], object]
    call: str
    request: int | None = None


ACCESSES = {
    "read a register": Access(lambda device: device.config.vendor_id, "pread"),
    "write a register": Access(lambda device: device.region(RegionIndex.CONFIG).write8(0x3C, 7), "pwrite"),
    "reset": Access(lambda device: device.reset(), "ioctl", vfio.VFIO_DEVICE_RESET),
    "probe a feature": Access(lambda device: device.features.probe(0), "ioctl", vfio.VFIO_DEVICE_FEATURE),
    "ask for a region": Access(lambda device: device.region(8), "ioctl", vfio.VFIO_DEVICE_GET_REGION_INFO),
    "ask for interrupts": Access(lambda device: device.interrupts(1), "ioctl", vfio.VFIO_DEVICE_GET_IRQ_INFO),
    "ask for the status of the group": Access(
        lambda device: group_of(device).viable, "ioctl", vfio.VFIO_GROUP_GET_STATUS
    ),
}


class OneFile(FaultyKernel):
    """Notes the descriptors that calls of the rules are made with, and those that are closed before."""

    def __init__(self) -> None:
        simulated = SimKernel()
        simulated.add(PciFunction(PLAIN, 20, *IDS, driver="vfio-pci", model=PlainDevice))
        super().__init__(simulated)
        self.closed: list[int] = []
        self.used: list[int] = []

    def open(self, path: str, flags: int) -> int:
        fd = super().open(path, flags)
        self.closed = [other for other in self.closed if other != fd]
        return fd

    def watch(self, rule: Rule) -> None:
        """Obey rule, and forget which numbers were closed before: they are other files' now."""
        self.closed.clear()
        self.arm(rule)

    def close(self, fd: int) -> None:
        super().close(fd)
        self.closed.append(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        try:
            return super().pread(fd, size, offset)
        finally:
            self.used += [fd] if fd in self.closed else []

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        try:
            return super().pwrite(fd, data, offset)
        finally:
            self.used += [fd] if fd in self.closed else []

    def ioctl(self, fd: int, request: int, argument: object = 0) -> int:
        try:
            return super().ioctl(fd, request, argument)  # type: ignore[arg-type]
        finally:
            self.used += [fd] if fd in self.closed else []


@pytest.mark.parametrize("access", ACCESSES.values(), ids=list(ACCESSES))
def test_a_call_that_another_thread_closes_the_file_of_is_made_on_that_file_or_not_at_all(access: Access) -> None:
    kernel = OneFile()
    container = Container(kernel=kernel)
    device = container.open_device(PLAIN)
    hold = Hold(0, access.call, access.request)
    kernel.watch(hold)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            access.make(device)
        except BaseException as error:
            failures.append(error)

    using, closing = threading.Thread(target=use), threading.Thread(target=container.close)
    using.start()
    assert hold.reached.wait(PATIENCE)
    closing.start()
    # Whoever shares a lock waits for it; who does not closes now.
    closing.join(0.2)
    hold.released.set()
    using.join(PATIENCE)
    closing.join(PATIENCE)
    assert kernel.used == []
    assert all(isinstance(error, ClosedError) for error in failures)
    assert device.fd in kernel.closed
    assert container.fd in kernel.closed


@pytest.mark.parametrize("access", ACCESSES.values(), ids=list(ACCESSES))
def test_a_signal_handler_that_closes_the_device_leaves_the_file_to_the_call_that_it_interrupts(access: Access) -> None:
    kernel = OneFile()
    with Container(kernel=kernel) as container:
        device = container.open_device(PLAIN)
        kernel.watch(Before(0, access.call, access.request, action=container.close))
        with suppress(ClosedError):
            access.make(device)
        assert kernel.used == []
        assert device.fd in kernel.closed


def in_child(act: Callable[[], object]) -> bool:
    """Whether act raises ClosedError in a forked process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(5)
            act()
        except ClosedError:
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_rings_nothing_of_its_parent_s() -> None:
    kernel = OneFile()
    with Container(kernel=kernel) as container, EventFd(kernel, "mine") as mine:
        device = container.open_device(PLAIN)
        interrupts = device.interrupts(InterruptIndex.INTX)
        interrupts.enable()
        doorbell = device.region(RegionIndex.BAR0).ioeventfd(0x20, 4, 7)
        for act in (
            doorbell.signal,
            interrupts.unmask_event().signal,
            lambda: interrupts.wait(0),
            lambda: interrupts.pending(),
            lambda: doorbell.event.wait(0),
            doorbell.event.fileno,
            mine.signal,
            lambda: mine.wait(0),
        ):
            assert in_child(act)
        doorbell.signal()
        assert mine.pending() == 0
