"""A device that a guest drives reaches what the guest boots from and has plugged, and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio import DeviceBusy, InvalidArgument
from pyvfio.abi import vfio
from pyvfio.faults import Fault
from pyvfio.sim.devices import VFIO_DRIVER, PciFunction, PlainDevice
from tests.support.vfio_user.bench import RawClient
from tests.support.vhost_user.front_end import MIB, REGION_ADDRESS, REGION_SIZE, Shared
from tests.support.virtiomem.servers import Running, blocks, descriptors, held, running
from virtiomem import ResponseType
from virtiomem.passthrough import PassedDevice, PassthroughOptions
from virtiomem.spaces import SpaceKind, SpaceOptions

ACK = ResponseType.ACK
RAM = 4 * MIB
LOW, HIGH = (0, MIB), (MIB, RAM - MIB)
FIRST, SECOND = "0000:00:10.0", "0000:00:11.0"
KINDS = [*SpaceKind]


class Client(RawClient):
    """QEMU's end: tells of the guest's memory as QEMU does, in one go."""

    def __init__(self, path: str, ram: Shared, region: Shared) -> None:
        super().__init__(path)
        self.ram, self.region = ram, region
        self.agree()

    def tell(self, *, region: bool = True) -> list[int]:
        """Of all of the guest's memory; the errno of each reply."""
        self.map(0, RAM, self.ram.fd)
        self.map(0xFFFC_0000, 0x4_0000, flags=1)
        if region:
            self.map(REGION_ADDRESS, REGION_SIZE, self.region.fd)
        return [self.receive().error for _ in range(3 if region else 2)]

    @property
    def bus_master(self) -> bool:
        data = self.read(vfio.VFIO_PCI_CONFIG_REGION_INDEX, 4, 2).payload[-2:]
        return bool(int.from_bytes(data, "little") & 4)

    def ask_for_bus_master(self) -> bool:
        """As the guest's driver does; whether it has got it."""
        self.write(vfio.VFIO_PCI_CONFIG_REGION_INDEX, 4, (6).to_bytes(2, "little"))
        return self.bus_master


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    before = descriptors()
    with running(tmp_path) as running_:
        for number, address in enumerate((FIRST, SECOND)):
            function = PciFunction(address, 90 + number, driver=VFIO_DRIVER, model=PlainDevice)
            running_.machine.add(function)
        yield running_
    assert descriptors() <= before


def passed(server: Running, *devices: str, kind: SpaceKind = SpaceKind.CONTAINER) -> list[PassedDevice]:
    """The devices in one address space, each passed."""
    server.server.add_space(SpaceOptions(devices, kind, "guest"))
    return [server.server.pass_device(PassthroughOptions(device, str(server.directory / device))) for device in devices]


@contextmanager
def client(device: PassedDevice, ram: Shared, region: Shared) -> Iterator[Client]:
    with Client(device.options.path, ram, region) as client:
        yield client


@pytest.fixture
def ram() -> Iterator[Shared]:
    shared = Shared(RAM)
    yield shared
    shared.close()


def mapped(server: Running) -> list[tuple[int, int]]:
    (space,) = server.server.spaces
    return held(server.machine, space.space)  # type: ignore[arg-type]


def wait_for(holds: Callable[[], bool]) -> None:
    """What the thread that serves has yet to do."""
    for _ in range(100_000):
        if holds():
            return
        os.sched_yield()
    raise AssertionError("it does not come about")


@pytest.mark.parametrize("kind", KINDS)
def test_boot_memory_and_plugged_blocks_are_mapped_and_nothing_else(
    server: Running, ram: Shared, kind: SpaceKind
) -> None:
    guest = server.guest()
    assert guest.plug(3) is ACK
    (device,) = passed(server, FIRST, kind=kind)
    assert mapped(server) == blocks(3)
    with client(device, ram, guest.front_end.region) as qemu:
        assert qemu.tell() == [0, 0, 0]
        assert mapped(server) == [LOW, HIGH, *blocks(3)]
        assert (guest.plug(5, 2), guest.unplug(3)) == (ACK, ACK)
        assert mapped(server) == [LOW, HIGH, *blocks(5, 6)]
        # The guest's firmware makes another picture of what is below 1 MiB.
        qemu.unmap(0, RAM)
        qemu.map(0, 0xC0000, ram.fd)
        qemu.map(0xC0000, RAM - 0xC0000, ram.fd, offset=0xC0000)
        assert [qemu.receive().error for _ in range(3)] == [0, 0, 0]
        assert mapped(server) == [(0, 0xC0000), (0xC0000, 0x40000), HIGH, *blocks(5, 6)]
        assert qemu.ask_for_bus_master()
        status = server.client.spaces()[0].passed[0]
        assert (status.device, status.connected, status.memory, status.unmapped) == (FIRST, True, RAM, 0)
    wait_for(lambda: not device.status.connected)
    # It is stopped, and the blocks are the guest's until it unplugs them, or is known to have ended.
    assert not server.server.spaces[0].devices[0].config.bus_master
    assert mapped(server) == blocks(5, 6)
    with client(device, ram, guest.front_end.region) as qemu:
        assert qemu.tell() == [0, 0, 0]
        assert mapped(server) == [LOW, HIGH, *blocks(5, 6)]


def test_a_guest_with_an_iommu_is_refused_by_name(server: Running, ram: Shared) -> None:
    guest = server.guest()
    (device,) = passed(server, FIRST)
    assert guest.plug(0) is ACK
    with client(device, ram, guest.front_end.region) as qemu:
        # What the guest has mapped, page by page: of what it boots from, and of a plugged block.
        qemu.map(0xFFFF_E000, 0x1000, ram.fd, offset=0x3000)
        qemu.map(0xFFFF_F000, 0x1000, guest.front_end.region.fd)
        assert [qemu.receive().error for _ in range(2)] == [1, 1]
        assert mapped(server) == blocks(0)
        assert not qemu.ask_for_bus_master()
        assert device.status.unmapped == 0x2000
    assert any("it has an IOMMU" in line for line in server.told)


def test_a_guest_without_the_region_is_refused(server: Running, ram: Shared) -> None:
    server.guest()
    (device,) = passed(server, FIRST)
    with client(device, ram, ram) as qemu:
        assert qemu.tell(region=False) == [1, 0]
        assert mapped(server) == []


def test_what_cannot_be_mapped_keeps_the_device_from_dma(server: Running, ram: Shared) -> None:
    guest = server.guest()
    (device,) = passed(server, FIRST)
    with client(device, ram, guest.front_end.region) as qemu:
        server.arm(Fault(0, request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
        assert qemu.tell()[0] == errno.ENOMEM
        server.arm()
        assert (mapped(server), qemu.ask_for_bus_master(), device.status.unmapped) == ([], False, RAM)
        assert guest.plug(1) is ACK
        assert mapped(server) == blocks(1)


def test_no_more_is_pinned_of_boot_memory_than_the_host_lets(server: Running, ram: Shared) -> None:
    guest = server.guest()
    server.server.add_space(SpaceOptions((FIRST,), SpaceKind.CONTAINER, "guest"))
    path = str(server.directory / FIRST)
    device = server.server.pass_device(PassthroughOptions(FIRST, path, memory=RAM))
    with client(device, ram, guest.front_end.region) as qemu:
        assert qemu.tell() == [0, 0, 0]
        # The region is not counted, nor what takes the place of what was taken away.
        qemu.unmap(0, RAM)
        qemu.map(0, RAM, ram.fd)
        qemu.map(RAM, 4096, ram.fd)
        # A refusal does not wait for the end of the burst.
        assert [qemu.receive().error for _ in range(3)] == [errno.ENOMEM, 0, 0]
        assert mapped(server) == [LOW, HIGH]


def test_a_client_that_comes_and_goes_fills_no_log(server: Running, ram: Shared) -> None:
    guest = server.guest()
    (device,) = passed(server, FIRST)
    before = len(server.told)
    for _ in range(40):
        with client(device, ram, guest.front_end.region) as qemu:
            qemu.tell()
        wait_for(lambda: not device.status.connected)
    assert len(server.told) <= before + 25


def test_two_devices_of_a_guest_share_what_is_mapped(server: Running, ram: Shared) -> None:
    guest = server.guest()
    first, second = passed(server, FIRST, SECOND)
    assert guest.plug(2) is ACK
    with client(first, ram, guest.front_end.region) as one:
        one.tell()
        with client(second, ram, guest.front_end.region) as two:
            assert two.tell() == [0, 0, 0]
            assert mapped(server) == [LOW, HIGH, *blocks(2)]
        wait_for(lambda: not second.status.connected)
        assert mapped(server) == [LOW, HIGH, *blocks(2)]
    wait_for(lambda: not first.status.connected)
    assert mapped(server) == blocks(2)


def test_a_device_is_passed_once_and_only_if_it_is_open_here(server: Running) -> None:
    (device,) = passed(server, FIRST)
    for address, meaning in ((FIRST, "has it already"), (SECOND, "open in no address space")):
        with pytest.raises(InvalidArgument, match=meaning):
            server.server.pass_device(PassthroughOptions(address, str(server.directory / "other")))
    with pytest.raises(DeviceBusy, match=f"{FIRST} is passed to a guest"):
        server.server.remove_space("guest")
    assert not (server.directory / "other").exists()
    assert device.status.connected is False


def test_the_end_of_the_server_stops_the_device_first(server: Running, ram: Shared) -> None:
    guest = server.guest()
    (device,) = passed(server, FIRST)
    assert guest.plug(0) is ACK
    with client(device, ram, guest.front_end.region) as qemu:
        qemu.tell()
        assert qemu.ask_for_bus_master()
        server.arm()
        server.server.close()
        assert qemu.has_been_left()
    assert not Path(device.options.path).exists()
    requests = [call.request for call in server.kernel.calls]
    assert requests.index(vfio.VFIO_DEVICE_RESET) < requests.index(vfio.VFIO_IOMMU_UNMAP_DMA)
