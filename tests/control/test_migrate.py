"""The migration of a device over the control socket: who begins it, what is read of it, and that it always ends."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvfio import Container, Ioas, Kernel, Memory, MemoryKind
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.sim import SimKernel
from tests.support.virtiomem.managers import ADDRESS, BLOCK
from tests.support.virtiomem.place import BLOCKS, PAGE, Idle, Place
from tests.support.virtiomem.spaces import LoggingSpace
from virtiomem import Request, RequestType, ResponseType, Run, VirtioMem
from virtiomem.control import ControlRefused, ManagedDevice, UnloggedSpace
from virtiomem.control.migration.answers import MOST_RUNS
from virtiomem.mapping import joined


def test_blocks_keep_their_state_from_begin_to_cancel(place: Place) -> None:
    with place.connected() as client:
        begun = client.begin_migration()
        assert (begun.device, begun.page_size, begun.region_size, begun.unlogged) == ("vm0", PAGE, BLOCKS * BLOCK, ())
        assert client.show()[1][0].migrating
        assert 'virtiomem_migrating{device="vm0"} 1' in place.server.metrics()
        for kind, block, count in (
            (RequestType.PLUG, 0, 1),
            (RequestType.UNPLUG, 2, 1),
            (RequestType.UNPLUG_ALL, 0, 0),
        ):
            assert place.ask(kind, block, count) is ResponseType.BUSY
        assert place.ask(RequestType.STATE, 2, 1) is ResponseType.ACK
        client.cancel_migration()
        assert place.ask(RequestType.PLUG, 0, 1) is ResponseType.ACK
        assert not client.show()[1][0].migrating


def test_what_devices_write_is_told_once_and_of_all_address_spaces(place: Place) -> None:
    first, second = LoggingSpace(0), LoggingSpace(1)
    place.join(first)
    place.join(second)
    with place.connected() as client:
        client.begin_migration()
        assert list(client.dirty_pages()) == []
        first.written = {ADDRESS + 2 * BLOCK, ADDRESS + 2 * BLOCK + PAGE}
        second.written = {ADDRESS + 2 * BLOCK + PAGE, ADDRESS + 8 * BLOCK + 3 * PAGE}
        assert list(client.dirty_pages()) == [Run(2 * BLOCK, 2 * PAGE), Run(8 * BLOCK + 3 * PAGE, PAGE)]
        assert list(client.dirty_pages()) == []
        client.cancel_migration()
    assert not first.tracking
    assert not second.tracking


def test_many_runs_come_in_many_answers(place: Place) -> None:
    space = LoggingSpace(0)
    place.join(space)
    # Every other page of blocks 2 to 4, and all of block 8.
    scattered = {2 * BLOCK + offset for offset in range(0, 3 * BLOCK, 2 * PAGE)}
    expected = [Run(offset, PAGE) for offset in sorted(scattered)] + [Run(8 * BLOCK, BLOCK)]
    assert len(expected) < MOST_RUNS
    with place.connected() as client:
        client.begin_migration()
        space.written = {ADDRESS + offset for offset in scattered}
        space.written |= {ADDRESS + 8 * BLOCK + offset for offset in range(0, BLOCK, PAGE)}
        assert list(client.dirty_pages()) == expected


def test_an_answer_is_a_line_of_less_than_64_kib(stack: ExitStack, tmp_path: Path) -> None:
    place = Place(stack, tmp_path / "socket", blocks=64)
    space = LoggingSpace(0)
    place.join(space)
    assert place.ask(RequestType.PLUG, 0, 64) is ResponseType.ACK
    offsets = range(0, 64 * BLOCK, 2 * PAGE)
    with place.connected() as client, socket.socket(socket.AF_UNIX) as peer:
        client.begin_migration()
        space.written = {ADDRESS + offset for offset in offsets}
        peer.connect(str(place.path))
        lines = peer.makefile("rb")
        told: list[int] = []
        request: dict[str, object] = {"command": "migrate", "action": "dirty"}
        while True:
            peer.sendall(json.dumps(request).encode() + b"\n")
            line = lines.readline()
            assert len(line) < 64 << 10
            result = json.loads(line)["result"]
            if not result["runs"]:
                break
            told += [run["offset"] for run in result["runs"]]
            assert all(run["size"] == PAGE for run in result["runs"])
            request["after"] = result["number"]
        lines.close()
    assert told == [*offsets]


def test_a_run_over_the_pieces_in_which_bits_are_taken_is_one(stack: ExitStack, tmp_path: Path) -> None:
    place = Place(stack, tmp_path / "socket", blocks=160)
    assert place.ask(RequestType.PLUG, 0, 160) is ResponseType.ACK
    place.join(LoggingSpace(0))
    place.spaces[0].fails = "read"  # type: ignore[attr-defined]
    with place.connected() as client:
        client.begin_migration()
        assert list(client.dirty_pages()) == [Run(0, 160 * BLOCK)]


def test_what_nobody_has_confirmed_is_told_again(place: Place) -> None:
    """A reader that dies, or that stops half-way, takes nothing with it."""
    space = LoggingSpace(0)
    place.join(space)
    pages = [2 * BLOCK + offset for offset in range(0, 3 * BLOCK, 2 * PAGE)]
    with place.connected() as client:
        client.begin_migration()
        space.written = {ADDRESS + page for page in pages}
        with place.connected() as reader:
            assert next(iter(reader.dirty_pages())) == Run(pages[0], PAGE)
        assert [run.start for run in client.dirty_pages()] == pages
        assert list(client.dirty_pages()) == []


def test_of_two_readers_the_one_that_began_first_is_told_so(place: Place) -> None:
    space = LoggingSpace(0)
    place.join(space)
    with place.connected() as client, place.connected() as other:
        client.begin_migration()
        space.written = {ADDRESS + 2 * BLOCK}
        mine = iter(client.dirty_pages())
        assert next(mine) == Run(2 * BLOCK, PAGE)
        assert list(other.dirty_pages()) == [Run(2 * BLOCK, PAGE)]
        with pytest.raises(ControlRefused, match="somebody has begun another") as caught:
            next(mine)
        assert caught.value.errno == errno.ESTALE


def test_an_address_space_without_a_log_is_named_and_counts_as_written(place: Place) -> None:
    space, silent = LoggingSpace(0), LoggingSpace(1)
    silent.fails = "start"
    place.join(space)
    place.join(silent)
    with place.connected() as client:
        (unlogged,) = client.begin_migration().unlogged
        assert isinstance(unlogged, UnloggedSpace)
        assert unlogged.name == "address space 1"
        assert "injected" in unlogged.reason
        for _ in range(2):
            assert list(client.dirty_pages()) == [Run(2 * BLOCK, 3 * BLOCK), Run(8 * BLOCK, BLOCK)]


def test_who_manages_says_what_logs_an_address_space(place: Place) -> None:
    """As for an Ioas, whose page table does."""
    space, log = LoggingSpace(0), LoggingSpace(1)
    place.join(space)
    place.server.forget("vm0")
    managed = ManagedDevice(
        place.device, Idle(), "anon", PAGE, lambda: (space,), dirty_log=lambda each: log if each is space else None
    )
    place.server.manage(managed)
    with place.connected() as client:
        client.begin_migration()
        log.written = {ADDRESS + 3 * BLOCK}
        assert list(client.dirty_pages()) == [Run(3 * BLOCK, PAGE)]
        assert not space.tracking


def test_an_iommu_that_logs_tells_what_a_device_has_written(stack: ExitStack, tmp_path: Path) -> None:
    kernel: Kernel = SimKernel(edu_devices=1, iommu_tracks_dirty=True)
    place = Place(stack, tmp_path / "socket", kernel=kernel)
    ioas = stack.enter_context(Ioas(kernel=kernel))
    device = ioas.open_device(edu_addresses(kernel)[0])
    table = ioas.page_table(device, dirty_tracking=True)
    device.attach(table)
    stack.enter_context(joined(ioas, place.device.discards, place.device.section))
    place.spaces.append(ioas)
    place.server.forget("vm0")
    place.server.manage(replace(place.managed, dirty_log=lambda _: table))
    assert place.ask(RequestType.PLUG, 0, 4) is ResponseType.ACK
    edu = stack.enter_context(Edu(device))
    with place.connected() as client:
        assert client.begin_migration().unlogged == ()
        edu.store(ADDRESS + BLOCK + 3 * PAGE, 16)
        edu.store(ADDRESS + 3 * BLOCK - 8, 16)
        assert list(client.dirty_pages()) == [Run(BLOCK + 3 * PAGE, PAGE), Run(3 * BLOCK - PAGE, 2 * PAGE)]
        assert list(client.dirty_pages()) == []


def test_two_devices_in_one_address_space_share_its_log(stack: ExitStack, tmp_path: Path) -> None:
    """As those of one server are."""
    kernel: Kernel = SimKernel(edu_devices=1)
    place = Place(stack, tmp_path / "socket", kernel=kernel)
    container = stack.enter_context(Container(kernel=kernel))
    container.open_device(edu_addresses(kernel)[0])
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK, kernel=kernel))
    second = stack.enter_context(
        VirtioMem(memory, address=2 * ADDRESS, block_size=BLOCK, requested_size=BLOCKS * BLOCK, name="vm1")
    )
    place.server.manage(ManagedDevice(second, Idle(), "anon", PAGE, lambda: (container,)))
    stack.callback(place.server.forget, "vm1")
    place.spaces.append(container)
    for device in (place.device, second):
        stack.enter_context(joined(container, device.discards, device.section))
    assert place.ask(RequestType.PLUG, 1, 1) is ResponseType.ACK
    second.handle(bytes(Request(RequestType.PLUG, 2 * ADDRESS + 3 * BLOCK, 1)))
    with place.connected() as client:
        assert client.begin_migration("vm0").unlogged == client.begin_migration("vm1").unlogged == ()
        assert list(client.dirty_pages("vm0")) == [Run(BLOCK, BLOCK)]
        client.cancel_migration("vm0")
        assert list(client.dirty_pages("vm1")) == [Run(3 * BLOCK, BLOCK)]
        client.cancel_migration("vm1")
    container.track_dirty().close()


def test_address_spaces_come_and_go(place: Place) -> None:
    first, late = LoggingSpace(0), LoggingSpace(1)
    mapper = place.join(first)
    everything = [Run(2 * BLOCK, 3 * BLOCK), Run(8 * BLOCK, BLOCK)]
    with place.connected() as client:
        client.begin_migration()
        place.join(late)
        assert list(client.dirty_pages()) == everything
        late.written = {ADDRESS + 8 * BLOCK}
        assert list(client.dirty_pages()) == [Run(8 * BLOCK, PAGE)]
        first.written = {ADDRESS + 2 * BLOCK}
        place.device.discards.unregister(mapper)
        place.spaces.remove(first)
        assert list(client.dirty_pages()) == everything
        assert not first.tracking
        assert list(client.dirty_pages()) == []
        place.device.discards.register(mapper, place.device.section)
        late.vanish()
        assert list(client.dirty_pages()) == everything


# Who begins, and who ends.


def test_a_client_that_goes_ends_what_it_began(place: Place) -> None:
    space = LoggingSpace(0)
    place.join(space)
    with place.connected() as client:
        client.begin_migration()
        with place.connected() as other:
            list(other.dirty_pages())
            assert other.save_state()
        assert place.device.migrating
    place.until_over()
    assert not space.tracking
    assert place.ask(RequestType.PLUG, 0, 1) is ResponseType.ACK


def test_a_migration_that_is_kept_outlasts_its_client_until_nobody_asks(place: Place) -> None:
    with place.connected() as client:
        client.begin_migration(keep=1.0)
    began = time.monotonic()
    while time.monotonic() < began + 1.2:
        with place.connected() as client:
            list(client.dirty_pages())
    assert place.device.migrating
    place.until_over()
    assert place.ask(RequestType.PLUG, 0, 1) is ResponseType.ACK
    with place.connected() as client, pytest.raises(ControlRefused, match="it does not migrate"):
        client.dirty_pages()


def test_a_migration_that_is_kept_for_no_time_at_all_is_over(place: Place) -> None:
    with place.connected() as client:
        client.begin_migration(keep=1e-9)
        place.until_over()
        client.begin_migration()


def test_a_request_that_is_being_carried_out_is_waited_for(place: Place) -> None:
    """Else blocks would change after the client was told that they do not."""
    plugging, go_on = threading.Event(), threading.Event()

    class Slow(LoggingSpace):
        def map_dma(self, *arguments: Any, **options: Any) -> None:
            plugging.set()
            assert go_on.wait(30)
            super().map_dma(*arguments, **options)

    go_on.set()
    place.join(Slow(0))
    go_on.clear()
    plugging.clear()
    answers: list[ResponseType] = []
    guest = threading.Thread(target=lambda: answers.append(place.ask(RequestType.PLUG, 10, 1)))
    guest.start()
    assert plugging.wait(30)
    with place.connected() as client, place.connected() as other:
        begun = threading.Thread(target=client.begin_migration)
        begun.start()
        # Others are answered meanwhile.
        assert not other.show(timeout=0.05)[1][0].migrating
        assert not answers
        go_on.set()
        begun.join(30)
        guest.join(30)
        assert answers == [ResponseType.ACK]
        assert other.show()[1][0].migrating
        assert place.ask(RequestType.PLUG, 11, 1) is ResponseType.BUSY


def test_anybody_may_cancel_and_the_next_one_begin(place: Place) -> None:
    with place.connected() as client, place.connected() as other:
        client.begin_migration()
        with pytest.raises(ControlRefused, match=r"it migrates already.*cancel") as caught:
            other.begin_migration()
        assert caught.value.errno == errno.EBUSY
        other.cancel_migration()
        other.begin_migration()
        client.close()
        # Its own is over, and the other's goes on.
        with place.connected() as third:
            third.show()
        assert place.device.migrating


def test_of_many_who_begin_at_once_one_does(place: Place) -> None:
    outcomes: list[bool] = []
    ready, over = threading.Barrier(8), threading.Event()

    def begin() -> None:
        with place.connected() as client:
            ready.wait(30)
            try:
                client.begin_migration()
                outcomes.append(True)
            except ControlRefused:
                outcomes.append(False)
            over.wait(30)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(outcomes) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
    place.until_over()


def test_the_program_that_holds_the_device_has_its_own_migrations(place: Place) -> None:
    place.device.migrating = True
    with place.connected() as client:
        with pytest.raises(ControlRefused, match="the program that holds it"):
            client.begin_migration()
        with pytest.raises(ControlRefused, match="it does not migrate"):
            client.cancel_migration()
        with pytest.raises(ControlRefused, match="its blocks keep their state"):
            client.load_state(b"x")
    assert place.device.migrating


def test_a_device_that_is_forgotten_migrates_no_more(place: Place) -> None:
    space = LoggingSpace(0)
    place.join(space)
    with place.connected() as client:
        client.begin_migration(keep=3600)
        place.server.forget("vm0")
        assert not place.device.migrating
        assert not space.tracking
        place.server.manage(place.managed)
        client.begin_migration()


def test_who_waits_with_a_migration_makes_no_room_for_others(place: Place) -> None:
    with place.connected() as client:
        client.begin_migration()
        peers = [socket.socket(socket.AF_UNIX) for _ in range(80)]
        for peer in peers:
            peer.connect(str(place.path))
        with place.connected() as last:
            assert last.show()[1][0].migrating
        for peer in peers:
            peer.close()
        client.cancel_migration()


def test_nothing_is_on_when_a_migration_cannot_begin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    space = LoggingSpace(0)
    place.join(space)
    with place.connected() as client:
        monkeypatch.setattr("virtiomem.control.migration.source.Lease", full)
        with pytest.raises(ControlRefused, match="nobody to end it"):
            client.begin_migration(keep=1)
        assert not place.device.migrating
        assert not space.tracking
        client.begin_migration()
