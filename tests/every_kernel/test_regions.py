"""Regions beside mapped BARs: I/O ports, the expansion ROM, and the addresses that every VGA shares."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import Container, Device, PciCommand, RegionFlags, RegionIndex, VfioError
from pyvfio.host import bind, restore
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sysfs import group_members, pci_device
from tests.support.kernels.hardware import E1000E, VGA, Kind, bound
from tests.support.kernels.testbed import Testbed

STATUS = 0x0008
TEXT = 0xB8000


def opened(testbed: Testbed, kind: Kind) -> Iterator[Device]:
    with bound(testbed, kind) as address, Container(kernel=testbed.kernel) as container:
        yield container.open_device(address)


@pytest.fixture
def network(testbed: Testbed) -> Iterator[Device]:
    yield from opened(testbed, E1000E)


@pytest.fixture
def vga(testbed: Testbed) -> Iterator[Device]:
    yield from opened(testbed, VGA)


def test_io_ports_are_read_and_written(network: Device) -> None:
    ports = network.region(RegionIndex.BAR2)
    assert (ports.size, ports.info.mmap_areas) == (32, ())
    network.config.command |= PciCommand.IO
    ports.write32(0, STATUS)
    assert ports.read32(0) == STATUS
    assert ports.read32(4) == network.region(RegionIndex.BAR0).read32(STATUS)


def test_a_rom_is_read_and_not_written(network: Device) -> None:
    rom = network.region(RegionIndex.ROM)
    assert rom.info.flags & (RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP) == RegionFlags.READ
    assert rom.read(0, 2) == b"\x55\xaa"
    with pytest.raises(VfioError, match="does not allow it"):
        rom.write(0, b"\0")


def test_only_a_vga_has_the_region(network: Device) -> None:
    with pytest.raises(VfioError, match="the device has none") as caught:
        network.region(RegionIndex.VGA)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.needs("type1", "vga")
def test_the_screen_of_a_vga(vga: Device) -> None:
    screen = vga.region(RegionIndex.VGA)
    before = screen.read(TEXT, 4)
    screen.write(TEXT, b"A\x07B\x07")
    assert screen.read(TEXT, 4) == b"A\x07B\x07"
    assert screen.read16(TEXT + 2) == 0x0742
    screen.write(TEXT, before)


@pytest.mark.needs("shared-group", "type1")
def test_a_bus_with_two_devices_is_reset_at_once(testbed: Testbed) -> None:
    """Of a group of two behind a bridge, of which the other is in nobody's hands."""
    edu, other = neighbours(testbed)
    before = [bind(testbed.kernel, address) for address in (edu, other)]
    try:
        with Container(kernel=testbed.kernel) as container:
            device = container.open_device(edu)
            assert [(found.address, found.held) for found in device.affected_by_hot_reset()] == [
                (edu, True),
                (other, True),
            ]
            device.config.enable_bus_master()
            device.hot_reset()
            assert device.config.bus_master
            assert device.region(0).read32(0) == 0x0100_00ED
    finally:
        for record in reversed(before):
            restore(testbed.kernel, record)


def neighbours(testbed: Testbed) -> tuple[str, str]:
    """Two functions on one bus and in one group: an edu and another."""
    addresses = ("0000:01:01.0", "0000:01:02.0")
    if isinstance(testbed.kernel, SimKernel):
        for address in addresses:
            testbed.kernel.add(PciFunction(address, 6))
    group = pci_device(testbed.kernel, addresses[0]).group
    assert group is not None
    assert {member.address for member in group_members(testbed.kernel, group)} >= set(addresses)
    return addresses
