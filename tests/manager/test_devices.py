"""Devices that are added to a running server, removed, and reset when their guest has ended."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio.faults import Fault, Hold
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE
from tests.support.virtiomem.servers import Guest, Running, blocks, descriptors, held, running
from virtiomem import RequestType, ResponseType
from virtiomem.control import ControlClient, ControlRefused

ACK, BUSY = ResponseType.ACK, ResponseType.BUSY
DEVICES = ("0000:00:03.0", "0000:00:04.0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    before = descriptors()
    with running(tmp_path, state=tmp_path / "state") as running_:
        yield running_
    assert descriptors() <= before


def mapped(server: Running) -> list[tuple[int, int]]:
    (opened,) = server.server.spaces
    return held(server.machine, opened.space)  # type: ignore[arg-type]


def test_a_device_that_is_added_is_served_beside_the_others(server: Running) -> None:
    server.client.add_space(DEVICES[:1])
    one = server.client.add_device(str(server.directory / "one"))
    two = server.client.add_device(
        str(server.directory / "two"), name="far", requested_size=4 * BLOCK, node=1, ring="split"
    )
    assert (one.name, one.address, one.requested_size) == ("vm0-0", REGION_ADDRESS, REGION_SIZE)
    assert (two.name, two.address, two.requested_size, two.node_id) == (
        "far", REGION_ADDRESS + REGION_SIZE, 4 * BLOCK, 1,
    )  # fmt: skip
    assert [status.name for status in server.client.show()[1]] == ["vm0-0", "far"]
    first, second = (
        Guest(str(server.directory / path), status.address) for path, status in (("one", one), ("two", two))
    )
    assert (first.plug(0, 2), second.plug(0, 3)) == (ACK, ACK)
    assert mapped(server) == blocks(0, 1, 16, 17, 18)
    server.client.remove_device("far", yes=True)
    assert mapped(server) == blocks(0, 1)
    assert second.front_end.gone()
    assert not (server.directory / "two").exists()
    assert (first.plug(2), first.unplug(0)) == (ACK, ACK)
    for guest in (first, second):
        guest.front_end.close()


def test_a_device_in_the_way_of_another_is_not_added(server: Running, tmp_path: Path) -> None:
    server.client.add_device(str(tmp_path / "one"), name="one")
    before = descriptors()
    for options, says in (
        ({"socket": str(tmp_path / "two"), "name": "one"}, "one is there twice"),
        ({"socket": str(tmp_path / "one")}, "is there twice"),
        ({"socket": str(tmp_path / "two"), "address": REGION_ADDRESS + BLOCK}, "fits at address=0x102000000"),
        ({"socket": str(tmp_path / "two"), "address": 0}, "a guest boots from the memory there"),
        ({"socket": str(tmp_path / "two"), "region_size": BLOCK + 1}, "multiple|would fit"),
        ({"socket": str(tmp_path / "none" / "two")}, "No such file"),
        ({"socket": "two"}, "Begin it with /"),
        ({"socket": str(tmp_path / "two"), "record": str(tmp_path / "none" / "trace")}, "No such file"),
        ({"socket": str(tmp_path / "two"), "ring": "round"}, "ring must be one of split, packed"),
        ({"socket": str(tmp_path / "two"), "node": -1}, "node must not be negative"),
        ({"socket": str(tmp_path / "two"), "size": 1}, "'size' is none of"),
        ({}, "socket must be a text"),
    ):
        with pytest.raises(ControlRefused, match=says):
            server.client.ask("add-device", options)
    assert descriptors() <= before
    assert [status.name for status in server.client.show()[1]] == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control", "one", "state"]


def test_a_trace_is_of_the_device_that_is_added(server: Running, tmp_path: Path) -> None:
    server.client.add_device(str(tmp_path / "one"), record=str(tmp_path / "trace"))
    guest = Guest(str(tmp_path / "one"))
    assert guest.plug(0) == ACK
    server.client.remove_device("vm0-0", yes=True)
    assert '"op": "request"' in (tmp_path / "trace").read_text()
    guest.front_end.close()


def test_a_guest_with_blocks_is_left_without_its_device_only_if_that_is_meant(server: Running) -> None:
    """And what it has plugged is its own; the device goes on with it when it is added again."""
    server.client.add_space(DEVICES[:1])
    guest = server.guest()
    assert guest.plug(0, 3) == ACK
    guest.front_end.region.bytes[:5] = b"guest"
    with pytest.raises(ControlRefused, match=r"its front end is connected.*--yes") as refused:
        server.client.remove_device("mem")
    assert refused.value.errno == errno.EBUSY
    assert guest.plug(4) == ACK
    server.client.remove_device("mem", yes=True)
    assert mapped(server) == []
    assert guest.front_end.region.bytes[:5] == b"guest"
    assert guest.front_end.region.resident() == 4 * BLOCK
    guest.front_end.vanish()
    status = server.client.add_device(str(server.directory / "mem"), name="mem")
    assert "4 blocks" in str(status.waiting_for) or "8 MiB" in str(status.waiting_for)
    again = Guest(str(server.directory / "mem"), region=guest.front_end.region)
    assert again.unplug(1) == ACK
    assert mapped(server) == blocks(0, 2, 4)
    assert guest.front_end.region.bytes[:5] == b"guest"
    again.front_end.vanish()
    # Nobody is connected then, so nothing is asked.
    wait_for(lambda: server.client.show()[1][0].guest == "vhost-user: no front end")
    server.client.remove_device("mem")


def test_the_memory_of_a_guest_that_has_ended_is_given_back(server: Running) -> None:
    server.client.add_space(DEVICES[:1])
    guest = server.guest()
    assert guest.plug(0, 3) == ACK
    region = guest.front_end.region
    region.bytes[: 3 * BLOCK] = b"x" * (3 * BLOCK)
    region.bytes[8 * BLOCK] = 1
    with pytest.raises(ControlRefused, match="would be lost"):
        server.client.reset_device("mem")
    with pytest.raises(ControlRefused, match="a front end is connected"):
        server.client.reset_device("mem", yes=True)
    assert guest.plug(5) == ACK
    guest.front_end.vanish()
    wait_for(lambda: server.client.show()[1][0].guest == "vhost-user: no front end")
    assert region.resident() == 5 * BLOCK - BLOCK + os.sysconf("SC_PAGE_SIZE")
    assert server.client.reset_device("mem", yes=True) == 4 * BLOCK
    assert (region.resident(), mapped(server)) == (0, [])
    (status,) = server.client.show()[1]
    assert (status.plugged_size, status.waiting_for) == (0, None)
    assert server.client.reset_device("mem", yes=True) == 0
    # Whoever comes next is another machine, even with the same file.
    again = Guest(str(server.directory / "mem"), region=region)
    assert again.ask(RequestType.STATE, 0, 3) == ACK
    assert again.plug(0, 2) == ACK
    assert mapped(server) == blocks(0, 1)
    again.front_end.close()


def test_what_a_server_before_has_left_of_a_guest_that_has_ended_is_forgotten(server: Running) -> None:
    guest = server.guest()
    assert guest.plug(0, 3) == ACK
    server.client.remove_device("mem", yes=True)
    guest.front_end.close()
    server.client.add_device(str(server.directory / "mem"), name="mem")
    assert server.client.show()[1][0].waiting_for is not None
    assert server.client.reset_device("mem", yes=True) == 3 * BLOCK
    assert server.client.show()[1][0].waiting_for is None
    server.client.remove_device("mem")
    status = server.client.add_device(str(server.directory / "mem"), name="mem")
    assert status.waiting_for is None


@pytest.mark.parametrize("nth", [0, 1])
def test_a_reset_that_fails_can_be_tried_again(server: Running, nth: int) -> None:
    server.client.add_space(DEVICES[:1])
    guest = server.guest()
    assert (guest.plug(0, 2), guest.plug(4, 2)) == (ACK, ACK)
    guest.front_end.vanish()
    wait_for(lambda: server.client.show()[1][0].guest == "vhost-user: no front end")
    server.kernel.arm(
        Fault(nth=0, name="ioctl", errno=errno.EIO) if nth == 0 else Fault(nth=nth, name="fallocate", errno=errno.EIO)
    )
    with pytest.raises(ControlRefused):
        server.client.reset_device("mem", yes=True)
    server.kernel.arm()
    (status,) = server.client.show()[1]
    assert status.plugged_size in (0, 4 * BLOCK)
    assert sum(size for _, size in mapped(server)) == status.plugged_size
    server.client.reset_device("mem", yes=True)
    assert (guest.front_end.region.resident(), mapped(server)) == (0, [])
    guest.front_end.close()


def test_devices_come_and_go_while_another_guest_plugs_and_unplugs(server: Running) -> None:
    server.client.add_space(DEVICES[:1])
    guest = server.guest()
    ended, failures = threading.Event(), list[BaseException]()

    def come_and_go() -> None:
        try:
            with ControlClient(server.path) as client:
                while not ended.is_set():
                    status = client.add_device(str(server.directory / "far"), name="far")
                    other = Guest(str(server.directory / "far"), status.address)
                    assert other.plug(3, 2) == ACK
                    client.remove_device("far", yes=True)
                    other.front_end.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    for turn in range(40):
        assert (guest.plug(turn % 12, 4), guest.unplug(turn % 12, 4)) == (ACK, ACK)
    ended.set()
    thread.join(60)
    assert not failures
    assert guest.plug(1) == ACK
    assert mapped(server) == blocks(1)


def test_a_change_waits_for_the_one_before_it_and_not_for_ever(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtiomem.manager.server._PATIENCE", 0.1)
    hold = Hold(nth=0, name="open")
    server.kernel.arm(hold)
    added: list[str] = []
    with ControlClient(server.path) as client:
        thread = threading.Thread(target=lambda: added.append(client.add_space(DEVICES[:1]).name))
        thread.start()
        assert hold.reached.wait(60)
        with pytest.raises(ControlRefused, match="another change has not ended"):
            server.client.add_space(DEVICES[1:])
        # Looking waits for nobody.
        assert server.client.spaces() == []
        hold.released.set()
        thread.join(60)
    assert added == [DEVICES[0]]


def test_a_server_that_is_closed_changes_nothing_more_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.client.add_space(DEVICES[:1])
        guest = server.guest()
        assert guest.plug(0, 2) == ACK
        server.server.close()
        with pytest.raises(OSError, match="it is closed"):
            server.server.remove_region("mem")
        assert server.machine.charges.locked == 0
        assert guest.front_end.region.resident() == 2 * BLOCK
    assert [*tmp_path.iterdir()] == []


def test_the_end_waits_for_no_client_that_waits_for_a_change(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        hold = Hold(nth=0, name="open")
        server.kernel.arm(hold)
        told: list[str] = []

        def add(device: str) -> None:
            with ControlClient(server.path) as client:
                try:
                    told.append(client.add_space([device]).name)
                except OSError as error:
                    told.append(str(error))

        threads = [threading.Thread(target=add, args=[device]) for device in DEVICES]
        threads[0].start()
        assert hold.reached.wait(60)
        threads[1].start()
        closing = threading.Thread(target=server.server.close)
        closing.start()
        hold.released.set()
        begun = time.monotonic()
        for thread in (closing, *threads):
            thread.join(60)
        assert time.monotonic() - begun < 30
        assert len(told) == 2
        assert server.machine.charges.locked == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Until what a thread is about to do is done."""
    waiting = threading.Event()
    for _ in range(600):
        if condition():
            return
        waiting.wait(0.1)
    raise AssertionError(condition)
