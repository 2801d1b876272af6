"""Address spaces that come and go while a guest runs: what is plugged is mapped into each, and into nothing else."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pyvfio import CdevDevice, Container, Ioas, Memory, SharedIoas
from pyvfio.abi import vfio
from pyvfio.drivers.edu import Edu
from pyvfio.faults import Fault
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS
from tests.support.virtiomem.servers import STAGING_IOVA, STAGING_SIZE, Running, blocks, descriptors, held, running
from virtiomem import RequestType, ResponseType
from virtiomem.control import ControlClient, ControlRefused

ACK, BUSY = ResponseType.ACK, ResponseType.BUSY
DEVICES = ("0000:00:03.0", "0000:00:04.0")
KINDS: tuple[Literal["container", "iommufd"], ...] = ("container", "iommufd")
STAGING = (STAGING_IOVA, STAGING_SIZE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    before = descriptors()
    with running(tmp_path) as running_:
        yield running_
    assert descriptors() <= before


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_added_reaches_what_is_plugged_and_what_will_be(
    server: Running, kind: Literal["container", "iommufd"]
) -> None:
    guest, far = server.guest(), server.guest("far")
    assert (guest.plug(0, 3), guest.unplug(1)) == (ACK, ACK)
    space = server.client.add_space(DEVICES[:1], kind=kind)
    assert (space.name, space.kind, space.devices, space.mappings) == (DEVICES[0], kind, (DEVICES[0],), 2)
    (opened,) = server.server.spaces
    assert isinstance(opened.space, Container | Ioas)
    assert held(server.machine, opened.space) == blocks(0, 2)
    assert (guest.plug(5), guest.unplug(0)) == (ACK, ACK)
    assert far.plug(0) == ACK
    assert held(server.machine, opened.space) == blocks(2, 5, 16)
    assert [len(status.address_spaces) for status in server.client.show()[1]] == [1, 1]
    server.client.remove_space(space.name)
    assert server.client.spaces() == []
    assert [len(status.address_spaces) for status in server.client.show()[1]] == [0, 0]
    assert (guest.plug(0), guest.ask(RequestType.UNPLUG_ALL)) == (ACK, ACK)
    # It is free for somebody else.
    with Container(kernel=server.monitor.kernel) as container:
        container.open_device(DEVICES[0])


def test_devices_of_one_request_share_an_address_space(server: Running) -> None:
    space = server.client.add_space(DEVICES, name="both")
    assert (space.name, space.devices) == ("both", DEVICES)
    with pytest.raises(ControlRefused, match="open"):
        server.client.add_space(DEVICES[:1], name="both")
    assert [each.name for each in server.client.spaces()] == ["both"]


def test_who_asks_for_what_is_not_there_is_told_what_is(server: Running) -> None:
    server.client.add_space(DEVICES[:1], name="one")
    for act, says in (
        (lambda client: client.remove_space("two"), "there is none of that name: there are one"),
        (lambda client: client.remove_device("two"), "there is none"),
        (lambda client: client.reset_device("two", yes=True), "there is none"),
        (lambda client: client.add_space(["0000:00:1f.0"]), "0000:00:1f.0"),
        (lambda client: client.add_space([]), "has devices, or comes with a descriptor"),
        (lambda client: client.add_space(DEVICES[1:], name="a\nb"), "can be printed"),
        (lambda client: client.ask("add-space", {"kind": "vdpa"}), "kind must be one of container, iommufd"),
        (lambda client: client.ask("add-space", {"devices": "x"}), "devices must be a list of texts"),
        (lambda client: client.ask("spaces", {"x": 1}), "'x' is none of"),
        (lambda client: client.ask("remove-device", {"device": "a", "yes": 1}), "yes must be true or false"),
    ):
        ask: Callable[[ControlClient], object] = act
        with pytest.raises(ControlRefused, match=says):
            ask(server.client)
    assert [each.name for each in server.client.spaces()] == ["one"]


def test_a_mapping_that_is_refused_while_a_space_joins_leaves_nothing(server: Running) -> None:
    """At each of the mappings of two regions, and at every other call on the way."""
    guest, far = server.guest(), server.guest("far")
    assert (guest.plug(0, 3), far.plug(0, 2)) == (ACK, ACK)
    before = descriptors()
    server.arm()
    server.client.add_space(DEVICES[:1])
    calls = [call for call in server.kernel.calls if call.name in ("ioctl", "open")]
    server.client.remove_space(DEVICES[0])
    assert sum(call.request == vfio.VFIO_IOMMU_MAP_DMA for call in calls) == 5
    refused = 0
    for name in ("ioctl", "open"):
        for nth in range(sum(call.name == name for call in calls)):
            server.arm(Fault(nth=nth, name=name, errno=errno.ENOMEM))
            try:
                server.client.add_space(DEVICES[:1])
            except ControlRefused:
                refused += 1
            else:
                # It was a question that the answer does not matter of.
                server.arm()
                server.client.remove_space(DEVICES[0])
            server.arm()
            assert server.client.spaces() == []
            assert descriptors() <= before
            assert [region.address_spaces for region in server.server.regions] == [(), ()]
            assert not any(region.managed.device.discards.divergences for region in server.server.regions)
    assert refused >= 5
    assert (guest.unplug(0, 3), far.unplug(0, 2)) == (ACK, ACK)


def test_a_space_whose_mappings_do_not_come_off_stays_as_it_was(server: Running) -> None:
    guest, far = server.guest(), server.guest("far")
    assert (guest.plug(0, 3), far.plug(0, 2)) == (ACK, ACK)
    server.client.add_space(DEVICES[:1])
    (opened,) = server.server.spaces
    assert isinstance(opened.space, Container)
    # The first region to leave has left by then.
    server.arm(Fault(nth=1, name="ioctl", request=vfio.VFIO_IOMMU_UNMAP_DMA, errno=errno.EIO))
    with pytest.raises(ControlRefused, match="EIO"):
        server.client.remove_space(DEVICES[0])
    server.arm()
    assert held(server.machine, opened.space) == blocks(0, 1, 2, 16, 17)
    assert [len(region.address_spaces) for region in server.server.regions] == [1, 1]
    assert (guest.unplug(1), guest.plug(4)) == (ACK, ACK)
    assert held(server.machine, opened.space) == blocks(0, 2, 4, 16, 17)
    server.client.remove_space(DEVICES[0])
    assert server.client.spaces() == []


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_come_and_go_while_a_guest_plugs_and_unplugs(
    server: Running, kind: Literal["container", "iommufd"]
) -> None:
    guest = server.guest()
    server.client.add_space(DEVICES[:1], kind=kind)
    ended, failures = threading.Event(), list[BaseException]()

    def come_and_go() -> None:
        try:
            with ControlClient(server.path) as client:
                while not ended.is_set():
                    client.add_space(DEVICES[1:], kind=kind)
                    client.remove_space(DEVICES[1])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    for turn in range(60):
        block = turn % 12
        assert guest.plug(block, 4) == ACK
        assert guest.unplug(block, 4) == ACK
    assert guest.plug(2, 3) == ACK
    ended.set()
    thread.join(60)
    assert not failures
    server.client.add_space(DEVICES[1:], kind=kind)
    for opened in server.server.spaces:
        assert isinstance(opened.space, Container | Ioas)
        assert held(server.machine, opened.space) == blocks(2, 3, 4)
    assert server.client.show()[1][0].divergences == ()


def transfers(engine: Edu, memory_of_guest: memoryview, container: Container, block: int) -> None:
    """The monitor's device writes into what its guest has plugged, and reads it again."""
    message = os.urandom(1024)
    (staging,) = [run.memory for run in container.mappings_in(STAGING_IOVA, STAGING_SIZE)]
    offset = block * BLOCK
    memory_of_guest[offset : offset + len(message)] = message
    engine.fetch(REGION_ADDRESS + offset, len(message))
    engine.store(STAGING_IOVA, len(message))
    assert isinstance(staging, Memory)
    assert staging.read(0, len(message)) == message
    engine.store(REGION_ADDRESS + offset + 4096, len(message))
    assert bytes(memory_of_guest[offset + 4096 : offset + 4096 + len(message)]) == message


def test_the_device_of_a_monitor_reaches_what_its_guest_has_plugged(server: Running) -> None:
    guest = server.guest()
    container, engine = server.monitor.container()
    assert guest.plug(0, 2) == ACK
    # The monitor maps something of its own between the regions of the guest, and in a hole of one.
    own = server.monitor.staging()
    hole = REGION_ADDRESS + 8 * BLOCK
    container.map_dma(hole, own, 0, STAGING_SIZE)
    space = server.client.lend_container(server.monitor.lend(container))
    assert (space.name, space.lent, space.devices, space.mappings) == ("lent-container-0", True, (), 2)
    assert guest.plug(12) == ACK
    kernel = server.monitor.kernel
    assert held(kernel, container) == [STAGING, *blocks(0, 1), (hole, STAGING_SIZE), *blocks(12)]
    with memoryview(guest.front_end.region.bytes) as memory:
        transfers(engine, memory, container, 1)
        transfers(engine, memory, container, 12)
    # One request over what the monitor has there: it is left alone.
    assert guest.ask(RequestType.UNPLUG_ALL) == ACK
    assert held(kernel, container) == [STAGING, (hole, STAGING_SIZE)]
    assert guest.plug(0) == ACK
    assert guest.plug(14) == ACK
    server.client.remove_space(space.name)
    assert held(kernel, container) == [STAGING, (hole, STAGING_SIZE)]
    engine.fetch(STAGING_IOVA, 1024)
    # And again.
    server.client.lend_container(server.monitor.lend(container), name="again")
    assert held(kernel, container) == [STAGING, *blocks(0), (hole, STAGING_SIZE), *blocks(14)]


def test_an_iommufd_of_a_monitor_gets_an_ioas_that_its_devices_are_attached_to(server: Running) -> None:
    guest = server.guest()
    assert guest.plug(0, 2) == ACK
    iommufd = server.monitor.iommufd()
    space = server.client.lend_iommufd(server.monitor.lend(iommufd))
    assert (space.kind, space.lent, space.mappings) == ("iommufd", True, 2)
    assert space.ioas_id is not None
    with SharedIoas(iommufd, space.ioas_id) as ioas:
        with CdevDevice(iommufd, DEVICES[0]) as device:
            device.attach(ioas)
            ioas.map_dma(STAGING_IOVA, server.monitor.staging(), 0, STAGING_SIZE)
            assert held(server.monitor.kernel, ioas) == [STAGING, *blocks(0, 1)]
            assert guest.plug(3) == ACK
            with Edu(device) as engine:
                guest.front_end.region.bytes[3 * BLOCK : 3 * BLOCK + 5] = b"guest"
                engine.fetch(REGION_ADDRESS + 3 * BLOCK, 1024)
                engine.store(REGION_ADDRESS, 1024)
                assert guest.front_end.region.bytes[:5] == b"guest"
            server.client.remove_space(space.name)
            # The IOAS is in use, so it stays.
            assert held(server.monitor.kernel, ioas) == [STAGING]
        # One that the monitor has made, by its number.
        again = server.client.lend_iommufd(server.monitor.lend(iommufd), ioas_id=ioas.id, name="again")
        assert again.ioas_id == ioas.id
        assert held(server.monitor.kernel, ioas) == [STAGING, *blocks(0, 1, 3)]
        server.client.remove_space("again")
        assert held(server.monitor.kernel, ioas) == [STAGING]
    with pytest.raises(ControlRefused, match="gone from the iommufd"):
        server.client.lend_iommufd(server.monitor.lend(iommufd), ioas_id=space.ioas_id + 1000)


def test_an_ioas_that_nobody_uses_goes_with_its_address_space(server: Running) -> None:
    iommufd = server.monitor.iommufd()
    space = server.client.lend_iommufd(server.monitor.lend(iommufd))
    server.client.remove_space(space.name)
    with pytest.raises(ControlRefused, match="IOAS"):
        server.client.lend_iommufd(server.monitor.lend(iommufd), ioas_id=space.ioas_id)


def test_a_guest_goes_on_when_the_owner_of_a_lent_container_has_gone(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    guest = server.guest()
    assert guest.plug(0, 4) == ACK
    acts: tuple[Callable[[], ResponseType], ...] = (
        lambda: guest.plug(4),
        lambda: guest.unplug(4),
        lambda: guest.ask(RequestType.UNPLUG_ALL),
    )
    for act in acts:
        container, engine = server.monitor.container()
        space = server.client.lend_container(server.monitor.lend(container), name="lent")
        assert space.mappings == guest_blocks(server)
        engine.close()
        container.close()
        assert act() == ACK
        assert server.client.show()[1][0].divergences == ()
        assert [(each.name, each.mappings) for each in server.client.spaces()] == [("lent", 0)]
        server.client.remove_space("lent")
    assert "its address space is closed" in caplog.text


def test_a_device_is_added_whatever_has_become_of_a_lent_container(server: Running) -> None:
    guest = server.guest()
    container, engine = server.monitor.container()
    server.client.lend_container(server.monitor.lend(container), name="lent")
    engine.close()
    container.close()
    far = server.guest("far")
    assert (guest.plug(0), far.plug(0)) == (ACK, ACK)
    assert [len(region.address_spaces) for region in server.server.regions] == [1, 0]
    server.client.remove_space("lent")
    assert (guest.unplug(0), far.unplug(0), server.client.spaces()) == (ACK, ACK, [])


def guest_blocks(server: Running) -> int:
    return server.client.show()[1][0].plugged_size // BLOCK


def test_a_container_without_a_group_is_not_taken(server: Running) -> None:
    with Container(kernel=server.monitor.kernel) as container:
        server.client.spaces()
        before = descriptors()
        with pytest.raises(ControlRefused, match="no IOMMU yet"):
            server.client.lend_container(server.monitor.lend(container))
        assert descriptors() <= before


def test_what_a_monitor_has_mapped_there_is_in_the_way_and_stays(server: Running) -> None:
    guest = server.guest()
    container, _ = server.monitor.container()
    own = server.monitor.staging()
    container.map_dma(REGION_ADDRESS + BLOCK, own, 0, STAGING_SIZE)
    assert guest.plug(0, 3) == ACK
    with pytest.raises(ControlRefused, match="EEXIST"):
        server.client.lend_container(server.monitor.lend(container))
    assert held(server.monitor.kernel, container) == [STAGING, (REGION_ADDRESS + BLOCK, STAGING_SIZE)]
    assert guest.ask(RequestType.UNPLUG_ALL) == ACK
    server.client.lend_container(server.monitor.lend(container))
    assert (guest.plug(0), guest.plug(1)) == (ACK, BUSY)
    assert "EEXIST" in str(server.client.show()[1][0].waiting_for)
    assert held(server.monitor.kernel, container) == [STAGING, *blocks(0), (REGION_ADDRESS + BLOCK, STAGING_SIZE)]


def test_memory_is_charged_to_the_server_that_maps_it(server: Running) -> None:
    guest = server.guest()
    container, _ = server.monitor.container()
    before = server.machine.charges.locked, server.monitor.kernel.charges.locked
    server.client.lend_container(server.monitor.lend(container))
    assert guest.plug(0, 3) == ACK
    after = server.machine.charges.locked, server.monitor.kernel.charges.locked
    assert [late - early for late, early in zip(after, before, strict=True)] == [3 * BLOCK, 0]
