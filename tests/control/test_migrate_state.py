"""States over the control socket, and clients that ask for migrations what makes no sense."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvfio import Memory, MemoryKind, VfioError
from tests.support.virtiomem.managers import ADDRESS, BLOCK, MIB, Running, running
from tests.support.virtiomem.place import BLOCKS, PAGE, Idle, Place
from virtiomem import RequestType, ResponseType, Run, VirtioMem
from virtiomem.control import ControlClient, ControlRefused, ControlServer, ManagedDevice
from virtiomem.control.migration.answers import LARGEST_PART, LARGEST_STATE


def loaded(source: Running, target: Running, size: int) -> None:
    with ControlClient(source.path) as client:
        source.reach(client, size)
        client.begin_migration()
        state = client.save_state()
    with ControlClient(target.path) as client:
        status = client.load_state(state)
        assert (status.plugged_size, status.requested_size) == (size, size)


def test_a_manager_goes_on_where_another_was(tmp_path: Path) -> None:
    with running(tmp_path / "one") as source, running(tmp_path / "two") as target:
        loaded(source, target, 10 * BLOCK)
        with ControlClient(target.path) as client:
            (status,) = client.show()[1]
            assert status.plugged == (Run(ADDRESS, 10 * BLOCK),)
            assert [space.mappings for space in status.address_spaces] == [10, 10]
            # Its stand-in knows what is plugged.
            assert target.reach(client, 12 * BLOCK).plugged == (Run(ADDRESS, 12 * BLOCK),)
            assert target.reach(client, 3 * BLOCK).plugged == (Run(ADDRESS, 3 * BLOCK),)


def test_a_stand_in_goes_on_with_blocks_anywhere(place: Place, tmp_path: Path) -> None:
    with running(tmp_path / "two", region_size=BLOCKS * BLOCK) as target, place.connected() as client:
        place.device.negotiate(int(place.device.features))
        place.device.resize(4 * BLOCK)
        client.begin_migration()
        with ControlClient(target.path) as there:
            there.load_state(client.save_state())
            assert target.reach(there, 6 * BLOCK).plugged == (Run(ADDRESS, 5 * BLOCK), Run(ADDRESS + 8 * BLOCK, BLOCK))
            assert target.reach(there, 4 * BLOCK).plugged == (Run(ADDRESS, 4 * BLOCK),)


def test_a_guest_that_broke_the_protocol_is_a_stand_ins_to_reset(place: Place, tmp_path: Path) -> None:
    with pytest.raises(VfioError):
        place.device.handle(b"")
    with running(tmp_path / "two", region_size=BLOCKS * BLOCK) as target, place.connected() as client:
        client.begin_migration()
        with ControlClient(target.path) as there:
            assert not there.load_state(client.save_state()).broken
            target.reach(there, 2 * BLOCK)


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "one") as source, running(tmp_path / "two", region_size=32 * MIB) as target:
        with ControlClient(target.path) as client, pytest.raises(ControlRefused, match="does not migrate"):
            client.save_state()
        with pytest.raises(ControlRefused, match="its region size is 0x400_0000, and this device's is 0x200_0000"):
            loaded(source, target, 4 * BLOCK)
        with ControlClient(target.path) as client:
            (status,) = client.show()[1]
            assert (status.plugged_size, status.requested_size) == (0, 0)
            target.reach(client, 2 * BLOCK)
        with ControlClient(source.path) as client:
            source.reach(client, 4 * BLOCK)
            client.begin_migration()
            state = client.save_state()
            client.cancel_migration()
            with pytest.raises(ControlRefused, match="blocks are plugged"):
                client.load_state(state)
            with pytest.raises(ControlRefused, match="not the state of a virtio-mem device"):
                client.load_state(b"\0" * 100)
            with pytest.raises(ControlRefused, match="checksum is wrong"):
                client.load_state(state[:-1] + b"?")


def test_no_state_comes_under_a_driver_that_runs(place: Place) -> None:
    state = place.device.save()
    assert place.ask(RequestType.UNPLUG_ALL) is ResponseType.ACK
    place.device.negotiate(int(place.device.features))
    with place.connected() as client:
        with pytest.raises(ControlRefused, match=r"a driver runs.*Load before the guest runs"):
            client.load_state(state)
        place.device.device_reset()
        assert client.load_state(state).plugged_size == 4 * BLOCK


def test_a_large_state_comes_in_parts(stack: ExitStack, tmp_path: Path) -> None:
    blocks = 8 * 2 * LARGEST_PART + 64
    source = LargeDevice(stack, tmp_path / "one", blocks)
    target = LargeDevice(stack, tmp_path / "two", blocks)
    with ControlClient(source.path) as client, ControlClient(target.path) as there:
        client.begin_migration()
        state = client.save_state()
        assert len(state) > 2 * LARGEST_PART
        there.load_state(state)
    assert target.loaded == [state]


class LargeDevice:
    """A device of many blocks, of which none is plugged, that keeps what it would load."""

    def __init__(self, stack: ExitStack, path: Path, blocks: int) -> None:
        self.path = path
        self.loaded: list[bytes] = []
        memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, blocks * MIB))
        device = stack.enter_context(VirtioMem(memory, address=ADDRESS, block_size=MIB, name="vm0", prealloc=False))
        server = stack.enter_context(ControlServer(str(path), lambda: None))
        server.manage(ManagedDevice(device, Idle(), "anon", PAGE, load=self.loaded.append))
        stack.callback(server.forget, "vm0")


# Clients that ask what makes no sense.


def ask(client: ControlClient, **arguments: object) -> dict[str, object]:
    return client.request("migrate", **arguments)


PART = base64.b64encode(b"x" * 100).decode()
NONSENSE: dict[str, tuple[dict[str, object], str]] = {
    "no action": ({}, "must be begin, dirty, save, load or cancel"),
    "another action": ({"action": "\x1b[2J"}, "must be begin, dirty, save, load or cancel"),
    "a list": ({"action": ["begin"]}, "must be begin, dirty, save, load or cancel"),
    "another device": ({"action": "begin", "device": "vm9"}, "device must be one of vm0"),
    "kept for no time": ({"action": "begin", "keep": 0}, "keep must be seconds"),
    "kept for ever": ({"action": "begin", "keep": 1e18}, "at most 86400 seconds"),
    "kept for infinity": ({"action": "begin", "keep": float("inf")}, "keep must be seconds"),
    "kept for no number": ({"action": "begin", "keep": float("nan")}, "keep must be seconds"),
    "kept for a huge number": ({"action": "begin", "keep": 10**400}, "keep must be seconds"),
    "kept for true": ({"action": "begin", "keep": True}, "keep must be seconds"),
    "after a word": ({"action": "dirty", "after": "x"}, "after must be a whole number"),
    "after a huge number": ({"action": "dirty", "after": 10**400}, "after must be a whole number of 64 bits"),
    "before begin": ({"action": "dirty"}, "it does not migrate"),
    "no size": ({"action": "load", "offset": 0, "data": PART}, "size must be a whole number"),
    "a huge size": ({"action": "load", "size": 1 << 60, "offset": 0, "data": PART}, "a state has from 1 to"),
    "a negative size": ({"action": "load", "size": -1, "offset": 0, "data": PART}, "a state has from 1 to"),
    "not from the start": ({"action": "load", "size": 200, "offset": 100, "data": PART}, "no part of the state"),
    "more than its size": ({"action": "load", "size": 99, "offset": 0, "data": PART}, "the state ends at 0x63"),
    "no data": ({"action": "load", "size": 99, "offset": 0, "data": ""}, "the next part begins at 0x0"),
    "no base64": ({"action": "load", "size": 99, "offset": 0, "data": "\u20ac~"}, "data must be bytes in base64"),
    "numbers": ({"action": "load", "size": 99, "offset": 0, "data": 7}, "data must be bytes in base64"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_in_a_sentence_and_the_next_is_answered(place: Place, name: str) -> None:
    arguments, message = NONSENSE[name]
    with place.connected() as client:
        with pytest.raises(ControlRefused, match=message) as caught:
            ask(client, **arguments)
        assert len(str(caught.value)) < 250
        assert str(caught.value).isprintable()
        assert not client.show()[1][0].migrating
        client.begin_migration()


def test_numbers_of_answers_that_are_not_the_last_one(place: Place) -> None:
    with place.connected() as client:
        client.begin_migration()
        for after in (-1, 0, 7, (1 << 64) - 1):
            with pytest.raises(ControlRefused, match="ask without after"):
                ask(client, action="dirty", after=after)


def test_parts_of_two_clients_are_not_mixed(place: Place) -> None:
    state = place.device.save()
    assert place.ask(RequestType.UNPLUG_ALL) is ResponseType.ACK
    first, second = (base64.b64encode(part).decode() for part in (state[:40], state[40:]))
    with place.connected() as one, place.connected() as other:
        ask(one, action="load", size=len(state), offset=0, data=first)
        with pytest.raises(ControlRefused, match="no part of the state"):
            ask(other, action="load", size=len(state), offset=40, data=second)
        assert ask(one, action="load", size=len(state), offset=40, data=second)["offset"] == len(state)
    assert place.device.plugged_size == 4 * BLOCK


def test_half_a_state_is_in_nobodys_way(place: Place) -> None:
    """Neither when its client stays, nor when it goes."""
    state = place.device.save()
    assert place.ask(RequestType.UNPLUG_ALL) is ResponseType.ACK
    half = base64.b64encode(state[:40]).decode()
    with place.connected() as idle, place.connected() as client:
        ask(idle, action="load", size=LARGEST_STATE, offset=0, data=half)
        client.begin_migration()
        client.cancel_migration()
        ask(idle, action="load", size=LARGEST_STATE, offset=0, data=half)
        assert client.load_state(state).plugged_size == 4 * BLOCK


def test_a_part_that_does_not_follow_on_ends_the_state(place: Place) -> None:
    with place.connected() as client:
        ask(client, action="load", size=200, offset=0, data=PART)
        with pytest.raises(ControlRefused, match="Send it again from offset 0"):
            ask(client, action="load", size=200, offset=99, data=PART)
        with pytest.raises(ControlRefused, match="Send it again from offset 0"):
            ask(client, action="load", size=200, offset=100, data=PART)


ANSWERS: dict[str, Callable[[dict[str, object]], object]] = {
    "no runs": lambda answer: answer.pop("runs"),
    "a run outside": lambda answer: answer.update(runs=[{"offset": 1 << 60, "size": PAGE}]),
    "a run of nothing": lambda answer: answer.update(runs=[{"offset": 0, "size": 0}]),
    "half a page": lambda answer: answer.update(runs=[{"offset": 0, "size": PAGE // 2}]),
    "backwards": lambda answer: answer.update(runs=[{"offset": PAGE, "size": PAGE}, {"offset": 0, "size": PAGE}]),
    "words": lambda answer: answer.update(runs="abc"),
    "no pages": lambda answer: answer.update(page_size=0),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be_is_not_believed(place: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    answer: dict[str, object] = {"number": 1, "page_size": PAGE, "region_size": BLOCKS * BLOCK, "runs": []}
    ANSWERS[name](answer)
    with place.connected() as client:
        monkeypatch.setattr(client, "request", lambda *_, **__: answer)
        with pytest.raises(VfioError, match="another protocol"):
            client.dirty_pages()
