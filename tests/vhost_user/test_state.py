"""What is served outlives its server: the next one goes on with the same guest, and with no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio.abi.vfio import VFIO_IOMMU_MAP_DMA
from pyvfio.errors import VfioError
from pyvfio.faults import Fault, Hold
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    FEATURES,
    RAM_SIZE,
    REGION_ADDRESS,
    REGION_SIZE,
    Request,
    table,
)
from tests.support.vhost_user.servers import Guest, in_hand, plug_three, record_of, served
from virtiomem import Request as GuestRequest
from virtiomem import RequestType, Response, ResponseType
from virtiomem.device import BlockState, DeviceState, StateRefused
from virtiomem.persistence import SlotFile, kept_device, record

ACK, BUSY, ERROR = (Response(kind) for kind in (ResponseType.ACK, ResponseType.BUSY, ResponseType.ERROR))
PLUGGED = Response(ResponseType.ACK, BlockState.PLUGGED)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def test_a_server_goes_on_where_the_one_before_has_ended(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    with served(tmp_path, requested_size=0) as server:
        assert (server.status.plugged_size, server.status.requested_size) == (0, 8 * BLOCK)
        assert "6 MiB were plugged" in str(server.status.waiting_for)
        with guest.connected(server) as front_end:
            driver = started(front_end, "split")
            assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
            assert server.container.mapping_count == 3
            assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
            assert ask(driver, UNPLUG, REGION_ADDRESS + BLOCK, 1) == ACK
            assert (server.status.plugged_size, guest.region.resident()) == (2 * BLOCK, 2 * BLOCK)
            assert front_end.config(8, 40) == (2 * BLOCK).to_bytes(8, "little")


def test_pages_that_nobody_plugged_are_given_back(tmp_path: Path, guest: Guest) -> None:
    """As those of a plug in the middle of which the server was killed."""
    plug_three(tmp_path, guest)
    guest.region.bytes[8 * BLOCK : 8 * BLOCK + 5] = b"stray"
    with served(tmp_path) as server, guest.connected(server) as front_end:
        started(front_end, "split")
        assert front_end.number(Request.GET_FEATURES)
        assert guest.region.resident() == 3 * BLOCK


def test_a_host_that_resizes_while_the_guest_is_away_is_heard(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    with served(tmp_path) as server:
        server.served.managed.device.resize(12 * BLOCK)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
        assert server.status.requested_size == 12 * BLOCK
        assert ask(driver, PLUG, REGION_ADDRESS + 4 * BLOCK, 9) == ACK


def test_other_memory_is_another_machine(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    other = Guest()
    other.region.bytes[:5] = b"other"
    with served(tmp_path) as server:
        # Not what was left, and it holds something.
        with other.connected(server) as front_end:
            front_end.connect()
            shared = table(*front_end.regions()), [other.ram.fd, other.region.fd]
            assert not front_end.acknowledged(Request.SET_MEM_TABLE, *shared)
        with guest.connected(server) as front_end:
            assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
    other.close()
    guest.ram.bytes[:] = bytes(RAM_SIZE)
    new = Guest()
    with served(tmp_path) as server, new.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == ACK
        assert server.status.plugged_size == BLOCK
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
    new.close()
    # It is forgotten now, and still not touched.
    with served(tmp_path) as server, guest.connected(server) as front_end:
        assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == BUSY
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"


def test_what_was_left_is_taken_up_with_the_options_it_had(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    for options in ({"block_size": 2 * BLOCK}, {"region_size": REGION_SIZE // 2, "requested_size": 0}):
        with pytest.raises(StateRefused) as refused:
            served(tmp_path, **options).__enter__()
        assert f"remove {tmp_path / 'vm0.state'} if its guest has ended" in str(refused.value)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        assert ask(started(front_end, "split"), UNPLUG_ALL) == ACK
    with served(tmp_path, block_size=2 * BLOCK) as server:
        assert server.status.requested_size == REGION_SIZE


def test_nothing_is_left_of_a_host_that_was_started_anew(
    tmp_path: Path, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_three(tmp_path, guest)
    monkeypatch.setattr(kept_device, "boot_id", lambda: "another")
    with served(tmp_path, requested_size=BLOCK) as server, guest.connected(server) as front_end:
        assert (server.status.requested_size, server.status.waiting_for) == (BLOCK, None)
        assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == BUSY
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"


def test_without_state_nothing_is_left(tmp_path: Path, guest: Guest) -> None:
    for _ in range(2):
        with served(tmp_path, state=None) as server, guest.connected(server) as front_end:
            front_end.connect()
            guest.region.bytes[:5] = b"guest"
            assert ask(started(front_end, "split"), STATE, REGION_ADDRESS, 1) == BUSY
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "content",
    [b'{"version": 2}', b"{}", b'{"version": 1, "boot": "here", "state": "00", "memory": null, "in_hand": null}'],
)
def test_a_state_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_device, "boot_id", lambda: "here")
    with SlotFile(tmp_path / "vm0.state") as file:
        file.write(content)
    with pytest.raises(VfioError) as refused:
        served(tmp_path).__enter__()
    assert str(refused.value).startswith(f"go on from {tmp_path / 'vm0.state'}: ")
    assert "Remove it if its guest has ended" in str(refused.value)


def test_one_server_at_a_time_keeps_a_state(tmp_path: Path) -> None:
    with served(tmp_path), pytest.raises(VfioError) as refused:
        served(tmp_path, path=str(tmp_path / "other")).__enter__()
    assert "another process has it open" in str(refused.value)


def test_the_request_in_hand_is_answered_as_it_was_carried_out(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + BLOCK, 3), ACK)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == ACK
        # And once.
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == ERROR


def test_another_request_is_not_the_one_in_hand(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + BLOCK, 3), ACK)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 2) == ERROR
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == ERROR


@pytest.mark.parametrize("is_in_hand", [False, True])
def test_what_cannot_be_mapped_again_is_tried_until_it_can(tmp_path: Path, guest: Guest, is_in_hand: bool) -> None:
    plug_three(tmp_path, guest)
    if is_in_hand:
        in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + 3 * BLOCK, 1), ACK)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        server.kernel.arm(Fault(name="ioctl", request=VFIO_IOMMU_MAP_DMA, errno=12))
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS + 3 * BLOCK, 1) == BUSY
        assert (server.container.mapping_count, server.status.plugged_size) == (0, 0)
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
        server.kernel.arm()
        # The guest was told that the last one is not plugged, if it was in hand.
        assert ask(driver, PLUG, REGION_ADDRESS + 3 * BLOCK, 1) == (ACK if is_in_hand else ERROR)
        assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
        assert server.container.mapping_count == 3
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"


def test_a_disk_that_is_full_is_busy_and_loses_nothing(tmp_path: Path, guest: Guest) -> None:
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS, 2) == ACK
        guest.region.bytes[:5] = b"guest"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotFile, "write", _full)
            assert ask(driver, PLUG, REGION_ADDRESS + 2 * BLOCK, 1) == BUSY
            assert ask(driver, UNPLUG, REGION_ADDRESS, 1) == BUSY
            assert ask(driver, STATE, REGION_ADDRESS, 2) == PLUGGED
            assert "no space" in str(server.status.waiting_for)
        assert guest.region.bytes[:5] == b"guest"
        assert ask(driver, UNPLUG, REGION_ADDRESS, 1) == ACK


def _full(*_: object) -> None:
    raise VfioError(28, "state", meaning="no space left")


def test_a_resize_while_blocks_are_mapped_again_loses_neither(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    with served(tmp_path) as server:
        hold = Hold(nth=1, name="ioctl", request=VFIO_IOMMU_MAP_DMA)
        server.kernel.arm(hold)
        with guest.connected(server) as front_end:
            front_end.connect()
            front_end.send(Request.SET_MEM_TABLE, table(*front_end.regions()), [front_end.ram.fd, front_end.region.fd])
            try:
                assert hold.reached.wait(60)
                server.served.managed.device.resize(12 * BLOCK)
                kept = DeviceState.parse(record_of(tmp_path).state)
                assert (kept.config.plugged_size, kept.config.requested_size) == (3 * BLOCK, 12 * BLOCK)
            finally:
                hold.released.set()
            assert front_end.number(Request.GET_FEATURES)
            assert (server.status.plugged_size, server.status.requested_size) == (3 * BLOCK, 12 * BLOCK)
    assert DeviceState.parse(record_of(tmp_path).state).config.requested_size == 12 * BLOCK


def test_what_is_kept_of_other_memory_is_not_what_was_left(tmp_path: Path, guest: Guest) -> None:
    """From the first moment: a server that goes on from there plugs nothing in a memory that never had it."""
    plug_three(tmp_path, guest)
    before = record_of(tmp_path).memory
    new = Guest()
    with served(tmp_path) as server, new.connected(server) as front_end:
        front_end.connect()
        front_end.send(Request.SET_MEM_TABLE, table(*front_end.regions()), [front_end.ram.fd, front_end.region.fd])
        assert front_end.number(Request.GET_FEATURES)
        found = record_of(tmp_path)
        assert (found.memory is not None, found.memory == before) == (True, False)
        assert DeviceState.parse(found.state).plugged == ()
    new.close()


def test_what_is_awaited_is_not_taken_for_stray(tmp_path: Path, guest: Guest) -> None:
    """While nothing of it is plugged here yet."""
    plug_three(tmp_path, guest)
    with served(tmp_path, reclaim_interval=0.01) as server, guest.connected(server) as front_end:
        server.kernel.arm(Fault(name="ioctl", request=VFIO_IOMMU_MAP_DMA, errno=12))
        driver = started(front_end, "split")
        for _ in range(10):
            assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 1) == BUSY
            assert sum(server.served.managed.device.reclaim()) == 0
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
        server.kernel.arm()
        assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
        assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
        guest.region.bytes[8 * BLOCK] = 1
        assert sum(server.served.managed.device.reclaim()) in (0, 4096)
        assert guest.region.resident() == 3 * BLOCK


def test_features_of_a_driver_are_there_when_it_comes_back(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    with SlotFile(tmp_path / "vm0.state") as file:
        assert file.content is not None
        assert record.Record.parse(file.content).memory is not None
    with served(tmp_path) as server, guest.connected(server) as front_end:
        front_end.connect()
        front_end.start(FEATURES)
        assert front_end.number(Request.GET_FEATURES)
        assert server.served.managed.device.negotiated
