"""Binding as a change of the host: whole or not at all, whatever fails, dies or vanishes on the way."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pyvfio import DeviceNotBound, HostNeedsDevice, InvalidArgument, Kernel, LinuxKernel
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Before, Fault, FaultyKernel
from pyvfio.host import (
    Change,
    InterfaceUse,
    LinuxNetwork,
    UndoFile,
    bind,
    perform,
    perform_restore,
    plan_bind,
    plan_restore,
    plan_unbind,
    require_expected,
    require_not_needed,
    restore,
    unbind,
)
from pyvfio.host.binding import Binding, binding
from pyvfio.kernel import exists, write_text
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sysfs import block_devices, interfaces, pci_device, pci_devices

WRITES = 6
"""Of an operation on two devices that have no driver before it, or vfio-pci."""


@dataclass(frozen=True, slots=True)
class Host:
    """Two edu devices without a driver."""

    kernel: Kernel
    addresses: list[str]

    def state(self) -> list[Binding]:
        return [binding(self.kernel, address) for address in self.addresses if exists_device(self.kernel, address)]

    def remove(self, address: str) -> None:
        """Pull the device out."""
        if isinstance(self.kernel, SimKernel):
            self.kernel.functions.pop(address, None)
        elif exists_device(self.kernel, address):
            write_text(self.kernel, f"/sys/bus/pci/devices/{address}/remove", "1")


def exists_device(kernel: Kernel, address: str) -> bool:
    return exists(kernel, f"/sys/bus/pci/devices/{address}")


@pytest.fixture
def host(kernel_name: str) -> Iterator[Host]:
    if kernel_name == "simulated":
        kernel = SimKernel()
        for number in (3, 4):
            kernel.add(PciFunction(f"0000:00:{number:02x}.0", group=number))
        yield Host(kernel, sorted(kernel.functions))
        return
    real = LinuxKernel()
    yield Host(real, edu_addresses(real)[:2])
    write_text(real, "/sys/bus/pci/rescan", "1")
    for address in edu_addresses(real):
        restore(real, Binding(address, None, None))


@pytest.fixture
def undo(tmp_path: Path) -> UndoFile:
    return UndoFile(tmp_path / "run" / "undo.json")


@pytest.fixture(params=["bind", "unbind"])
def operation(request: pytest.FixtureRequest, host: Host) -> Callable[[Kernel, UndoFile], None]:
    """On both devices; what it begins with is not the same."""
    if request.param == "unbind":
        for address in host.addresses:
            bind(host.kernel, address)

        def change(kernel: Kernel, undo: UndoFile) -> None:
            perform(kernel, plan_unbind(kernel, host.addresses), undo, partial(unbind, kernel))

        return change

    def change_(kernel: Kernel, undo: UndoFile) -> None:
        perform(kernel, plan_bind(kernel, host.addresses, "vfio-pci"), undo, lambda address: bind(kernel, address))

    return change_


Operation = Callable[[Kernel, UndoFile], None]


def test_bind_unbind_restore(host: Host, undo: UndoFile) -> None:
    before = host.state()
    perform(
        host.kernel,
        plan_bind(host.kernel, host.addresses, "vfio-pci"),
        undo,
        lambda address: bind(host.kernel, address),
    )
    assert [(now.driver, now.override) for now in host.state()] == [("vfio-pci", None)] * 2
    assert undo.read() == before
    groups = [pci_device(host.kernel, address).group for address in host.addresses]
    assert all(exists(host.kernel, f"/dev/vfio/{group}") for group in groups)
    assert plan_bind(host.kernel, host.addresses, "vfio-pci") == [
        Change(binding(host.kernel, address), "vfio-pci", ()) for address in host.addresses
    ]
    assert perform_restore(host.kernel, undo.read(), undo) == {}
    assert host.state() == before
    assert not undo.path.exists()
    assert not any(exists(host.kernel, f"/dev/vfio/{group}") for group in groups)


@pytest.mark.parametrize("nth", range(WRITES))
@pytest.mark.parametrize("code", [errno.EIO, errno.EBUSY, errno.ENODEV])
def test_every_write_fails_in_turn(host: Host, undo: UndoFile, operation: Operation, nth: int, code: int) -> None:
    before = host.state()
    with pytest.raises(OSError, match="bind 0000:") as caught:
        operation(FaultyKernel(host.kernel, Fault(nth=nth, name="write", errno=code)), undo)
    assert caught.value.errno == code
    assert host.state() == before
    assert not undo.path.exists()


@pytest.mark.parametrize("nth", range(WRITES))
def test_when_giving_back_fails_too_the_undo_file_stays(
    host: Host, undo: UndoFile, operation: Operation, nth: int
) -> None:
    before = host.state()
    faults = [Fault(nth=later, name="write", errno=errno.EIO) for later in range(nth, nth + 20)]
    with pytest.raises(OSError, match="bind 0000:"):
        operation(FaultyKernel(host.kernel, *faults), undo)
    if host.state() != before:
        assert perform_restore(host.kernel, undo.read(), undo) == {}
    assert host.state() == before
    assert not undo.path.exists()


class Killed(BaseException):
    """Nothing catches it: what runs afterwards is what finds the host as a killed process left it."""


@pytest.mark.parametrize("nth", range(WRITES))
def test_killed_between_two_writes(host: Host, undo: UndoFile, operation: Operation, nth: int) -> None:
    before = host.state()
    if isinstance(host.kernel, SimKernel):

        def die() -> None:
            raise Killed

        with pytest.raises(Killed):
            operation(FaultyKernel(host.kernel, Before(nth=nth, name="write", action=die)), undo)
    else:
        child = os.fork()
        if child == 0:
            kill = Before(nth=nth, name="write", action=lambda: os.kill(os.getpid(), signal.SIGKILL))
            operation(FaultyKernel(host.kernel, kill), undo)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    if host.state() != before:
        assert undo.read() == before
    assert perform_restore(host.kernel, undo.read(), undo) == {}
    assert host.state() == before
    assert not undo.path.exists()


@pytest.mark.parametrize("nth", range(WRITES))
def test_a_device_vanishes(host: Host, undo: UndoFile, operation: Operation, nth: int) -> None:
    """The second of two, at any time: the first is as before, and nothing is left to restore."""
    first, second = host.addresses
    before = host.state()
    vanish = Before(nth=nth, name="write", action=lambda: host.remove(second))
    with pytest.raises(OSError, match=second):
        operation(FaultyKernel(host.kernel, vanish), undo)
    assert host.state() == before[:1]
    assert not undo.path.exists()
    assert binding(host.kernel, first) == before[0]


def test_restore_passes_over_what_is_gone(host: Host, undo: UndoFile) -> None:
    second = host.addresses[1]
    before = host.state()
    perform(host.kernel, plan_bind(host.kernel, host.addresses, "vfio-pci"), undo, lambda each: bind(host.kernel, each))
    host.remove(second)
    assert [change.gone for change in plan_restore(host.kernel, undo.read())] == [True, False]
    assert perform_restore(host.kernel, undo.read(), undo) == {}
    assert host.state() == before[:1]
    assert not undo.path.exists()


def test_a_dry_run_plans_what_is_written(host: Host) -> None:
    (change,) = plan_bind(host.kernel, host.addresses[:1], "vfio-pci")
    address = host.addresses[0]
    device = f"/sys/bus/pci/devices/{address}/driver_override"
    assert [str(write) for write in change.writes] == [
        f"echo vfio-pci > {device}",
        f"echo {address} > /sys/bus/pci/drivers_probe",
        f"echo > {device}",
    ]
    assert host.state()[0].driver is None


@pytest.mark.parametrize(
    ("plan", "error", "what"),
    [
        (lambda kernel, _: plan_bind(kernel, ["0000:ff:1f.7"], "vfio-pci"), DeviceNotBound, "no such device"),
        (lambda kernel, address: plan_bind(kernel, [address], "no-driver"), DeviceNotBound, "modprobe no-driver"),
        (lambda kernel, address: require_expected(kernel, [address], "8086:1521"), InvalidArgument, "1234:11e8"),
        (lambda kernel, _: plan_bind(kernel, ["eth0"], "vfio-pci"), InvalidArgument, "not an address"),
    ],
)
def test_bad_input_changes_nothing(
    host: Host, plan: Callable[[Kernel, str], object], error: type[OSError], what: str
) -> None:
    before = host.state()
    with pytest.raises(error, match=what):
        plan(host.kernel, host.addresses[0])
    assert host.state() == before


def test_a_device_in_use_is_refused(host: Host) -> None:
    """The kernel would wait until it is closed, perhaps for ever."""
    address = host.addresses[0]
    bind(host.kernel, address)
    node = host.kernel.open(f"/dev/vfio/{pci_device(host.kernel, address).group}", os.O_RDWR)
    try:
        with pytest.raises(
            HostNeedsDevice, match=rf"{address}: .* has (group \d+|/dev/vfio/\d+) open, and unbinding waits"
        ):
            require_not_needed(host.kernel, NoNetwork(), [address])
    finally:
        host.kernel.close(node)
    require_not_needed(host.kernel, NoNetwork(), [address])


class NoNetwork:
    def use(self, interface: str) -> InterfaceUse:
        raise AssertionError(interface)


@pytest.mark.needs("real", "type1")
def test_an_interface_the_host_talks_through_is_refused(kernel_name: str) -> None:
    """Asked of the kernel by netlink: a virtio-net interface that gets an address and a route."""
    from pyroute2 import IPRoute

    assert kernel_name
    kernel, network = LinuxKernel(), LinuxNetwork()
    (address,) = (each.address for each in pci_devices(kernel) if interfaces(kernel, each.address))
    (name,) = interfaces(kernel, address)
    bridges = [each.address for each in pci_devices(kernel) if interfaces(kernel, each.address, dependent=True)]
    assert len(bridges) == 2, "the function, and the port above it"
    with IPRoute() as netlink:
        (index,) = netlink.link_lookup(ifname=name)
        require_not_needed(kernel, network, [address])
        netlink.link("set", index=index, state="up")
        try:
            netlink.addr("add", index=index, address="192.0.2.7", prefixlen=24)
            netlink.route("add", dst="default", gateway="192.0.2.1")
            with pytest.raises(HostNeedsDevice) as caught:
                require_not_needed(kernel, network, [address])
            for reason in ("carries the default route", "has the address 192.0.2.7/24", "has an established link"):
                assert f"{address}: {name} {reason}" in str(caught.value)
        finally:
            netlink.link("set", index=index, state="down")
            netlink.flush_addr(index=index)
    require_not_needed(kernel, network, [address])


@pytest.mark.needs("real", "type1", "nvme-disk", "express-dma")
def test_a_disk_the_host_swaps_to_is_refused(kernel_name: str) -> None:
    assert kernel_name
    kernel = LinuxKernel()
    (address,) = [device.address for device in pci_devices(kernel) if device.driver == "nvme"]
    (disk,) = block_devices(kernel, address)
    with swapped_to(f"/dev/{disk}"):
        with pytest.raises(HostNeedsDevice, match=f"{address}: {disk} is swap"):
            require_not_needed(kernel, NoNetwork(), [address])
        (bridge,) = [
            device.address
            for device in pci_devices(kernel)
            if device.is_bridge and block_devices(kernel, device.address, dependent=True)
        ]
        with pytest.raises(HostNeedsDevice, match=f"{bridge}: {disk} is swap"):
            require_not_needed(kernel, NoNetwork(), [bridge])
    require_not_needed(kernel, NoNetwork(), [address])


@contextmanager
def swapped_to(node: str) -> Iterator[None]:
    """Source of the layout: linux/swap.h, union swap_header."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = bytearray(4096)
    struct.pack_into("<III", header, 1024, 1, 255, 0)
    header[-10:] = b"SWAPSPACE2"
    disk = os.open(node, os.O_RDWR)
    try:
        before = os.pread(disk, len(header), 0)
        os.pwrite(disk, header, 0)
        assert libc.swapon(node.encode(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            libc.swapoff(node.encode())
            os.pwrite(disk, before, 0)
    finally:
        os.close(disk)
