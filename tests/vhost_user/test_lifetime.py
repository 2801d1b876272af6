"""Config changes, and what outlives a driver, a front end and a server."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path

import pytest

from pyvfio import Container, LinuxKernel
from pyvfio.sim import SimKernel
from tests.support.vhost_user.driver import ask, restarted, started
from tests.support.vhost_user.front_end import (
    ALL,
    BLOCK,
    FEATURES,
    MIB,
    REGION_ADDRESS,
    REGION_SIZE,
    REGION_USER_ADDRESS,
    Bench,
    Elsewhere,
    FrontEnd,
    Request,
    Shared,
    region,
    state,
)
from virtiomem import DmaMapper, RequestType, Response, ResponseType
from virtiomem import Request as GuestRequest
from virtiomem.discard import DiscardCoordination
from virtiomem.trace import replay
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions
from virtiomem.vhost_user.messages import ProtocolFeature

ACK, NACK, BUSY, ERROR = (Response(kind) for kind in ResponseType)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


def test_the_guest_is_told_of_a_change_only_while_its_driver_runs(bench: Bench, front_end: FrontEnd) -> None:
    """QEMU 11.1 dies of one before the driver has started, and of one after it has gone."""
    front_end.connect()
    bench.device.resize(2 * BLOCK)
    assert front_end.changes() == 0
    front_end.start()
    assert front_end.changes() == 1
    bench.device.resize(4 * BLOCK)
    assert front_end.changes() == 1
    front_end.stop()
    bench.device.resize(6 * BLOCK)
    assert front_end.changes() == 0
    front_end.start()
    assert front_end.changes() == 1


def test_changes_before_any_front_end_are_in_the_config_it_reads(bench: Bench) -> None:
    bench.device.resize(2 * BLOCK)
    front_end = FrontEnd(bench)
    started(front_end, "split")
    assert front_end.changes() == 0
    assert front_end.config() == bytes(bench.device.config)
    front_end.close()


def test_a_change_in_another_thread(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    resizing = threading.Thread(target=bench.device.resize, args=(2 * BLOCK,))
    resizing.start()
    bench.server.turn()
    resizing.join()
    assert front_end.changes() == 1


def test_a_nack_never_comes_without_a_change(bench: Bench, front_end: FrontEnd) -> None:
    """Else a driver that has missed one asks again at once, for ever."""
    driver = started(front_end, "split")
    bench.device.resize(BLOCK)
    front_end.changes()
    assert ask(driver, PLUG, REGION_ADDRESS, 2) == NACK
    assert front_end.changes() == 1
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    assert front_end.changes() == 0


def test_the_change_is_told_before_the_nack_it_causes(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    bench.device.resize(BLOCK)
    front_end.changes()
    ask(driver, PLUG, REGION_ADDRESS, 2)
    assert bench.heard.words[-1] == "told of change"


def test_a_front_end_without_a_channel_for_changes(bench: Bench, front_end: FrontEnd) -> None:
    front_end.protocol_features = int(ALL & ~ProtocolFeature.BACKEND_REQ)
    started(front_end, "split")
    bench.device.resize(BLOCK)
    bench.settle()
    front_end.channel.close()
    assert bench.served.connected


def test_a_channel_that_is_closed(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    front_end.channel.close()
    bench.device.resize(BLOCK)
    bench.settle()
    assert bench.served.connected


def test_a_change_that_a_closed_channel_lost_is_told_on_the_next(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    front_end.channel.close()
    bench.device.resize(BLOCK)
    bench.settle()
    assert "told of change" not in bench.heard.words
    front_end.channel, theirs = socket.socketpair()
    with theirs:
        front_end.send(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
    assert bench.heard.words[-1] == "told of change"
    assert front_end.changes() == 1


def test_a_channel_that_nobody_reads(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    for _ in range(1000):
        bench.device.resize(BLOCK)
        bench.settle()
    assert bench.served.connected
    assert front_end.changes() > 0


def test_a_driver_that_goes_and_comes_keeps_its_blocks(bench: Bench, front_end: FrontEnd) -> None:
    assert ask(started(front_end, "split"), PLUG, REGION_ADDRESS, 4) == ACK
    front_end.region.bytes[:5] = b"guest"
    driver = restarted(front_end, "packed")
    assert bench.device.plugged_size == 4 * BLOCK
    assert front_end.region.bytes[:5] == b"guest"
    assert ask(driver, UNPLUG_ALL) == ACK
    assert front_end.region.resident() == 0


def test_a_front_end_that_comes_back_with_the_same_memory(bench: Bench) -> None:
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 4) == ACK
    first.region.bytes[:5] = b"guest"
    bench.device.resize(8 * BLOCK)
    first.vanish()
    second = FrontEnd(bench, region=first.region)
    driver = started(second, "split")
    assert bench.heard.words.count(f"attached {REGION_SIZE:#x}") == 1
    assert (bench.device.plugged_size, bench.device.config.requested_size) == (4 * BLOCK, 8 * BLOCK)
    assert first.region.bytes[:5] == b"guest"
    assert ask(driver, UNPLUG, REGION_ADDRESS, 4) == ACK
    assert first.region.resident() == 0
    second.close()


def test_another_machine_starts_with_nothing_plugged(bench: Bench) -> None:
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 4) == ACK
    first.close()
    second = FrontEnd(bench)
    driver = started(second, "split")
    assert (bench.device.plugged_size, bench.device.config.requested_size) == (0, REGION_SIZE)
    assert second.region.resident() == 0
    assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == ACK
    assert second.region.resident() == BLOCK
    second.close()


def test_memory_is_not_exchanged_while_blocks_must_stay(bench: Bench) -> None:
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 4) == ACK
    first.vanish()
    bench.device.migrating = True
    second = FrontEnd(bench)
    started(second, "split")
    assert "migrating" in bench.heard.last("refused SET_MEM_TABLE")
    assert first.region.resident() == 4 * BLOCK
    bench.device.migrating = False
    second.close()
    first.region.close()


@pytest.mark.parametrize(
    ("address", "size"),
    [(REGION_ADDRESS - BLOCK, REGION_SIZE), (REGION_ADDRESS, REGION_SIZE + BLOCK), (REGION_ADDRESS, BLOCK)],
)
def test_memory_that_is_not_only_the_region_is_left_alone(
    bench: Bench, front_end: FrontEnd, address: int, size: int
) -> None:
    front_end.region.close()
    front_end.region = Shared(REGION_SIZE + BLOCK)
    front_end.region.bytes[:5] = b"guest"
    front_end.connect()
    entry = region(address, size, REGION_USER_ADDRESS)
    front_end.share(front_end.regions()[0], entry, fds=[front_end.ram.fd, front_end.region.fd])
    assert "a memory backend of its own" in bench.heard.last("refused SET_MEM_TABLE")
    assert front_end.region.bytes[:5] == b"guest"
    assert not bench.memory.attached


def test_before_its_memory_is_there_plugging_is_busy(bench: Bench, front_end: FrontEnd) -> None:
    """The memory device may be hot-plugged later."""

    def plug() -> Response:
        return Response.parse(bench.device.handle(bytes(GuestRequest(PLUG, REGION_ADDRESS, 1))))

    front_end.connect()
    front_end.share(front_end.regions()[0], fds=[front_end.ram.fd])
    assert plug() == BUSY
    front_end.share()
    assert plug() == ACK


def test_plugged_blocks_are_what_devices_reach(bench: Bench) -> None:
    kernel = SimKernel(edu_devices=1)
    first = FrontEnd(bench)
    with Container(kernel=kernel) as container, DmaMapper(container) as mapper:
        container.open_device("0000:00:03.0")
        bench.device.discards.register(mapper, bench.device.section)
        assert ask(started(first, "split"), PLUG, REGION_ADDRESS + BLOCK, 3) == ACK
        assert [(run.iova, run.size, run.mappings) for run in container.mappings()] == [
            (REGION_ADDRESS + BLOCK, 3 * BLOCK, 3)
        ]
        first.close()
        assert container.mapping_count == 3
        second = FrontEnd(bench)
        started(second, "split")
        assert container.mapping_count == 0
        second.close()
        bench.device.discards.unregister(mapper)


def test_stopping_a_server(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    serving = threading.Thread(target=bench.server.run)
    serving.start()
    bench.server.stop()
    serving.join()
    bench.served.close()
    bench.served.close()
    assert front_end.gone()
    assert not Path(bench.served.path).exists()
    assert bench.heard.words[-1] == "disconnected: closed"


def test_two_devices_at_one_server(tmp_path: Path) -> None:
    benches = [Bench(str(tmp_path / name)) for name in ("one", "two")]
    fronts = [FrontEnd(bench) for bench in benches]
    drivers = [started(front, "split") for front in fronts]
    assert ask(drivers[0], PLUG, REGION_ADDRESS, 3) == ACK
    assert ask(drivers[1], PLUG, REGION_ADDRESS, 5) == ACK
    assert [bench.device.plugged_size // MIB for bench in benches] == [6, 10]
    for front, bench in zip(fronts, benches, strict=True):
        front.close()
        bench.close()


def test_a_guest_keeps_its_memory_when_its_server_ends(tmp_path: Path) -> None:
    kernel = SimKernel(edu_devices=1)
    told: list[str] = []
    path = str(tmp_path / "socket")
    with Container(kernel=kernel) as container:
        container.open_device("0000:00:03.0")
        trace = io.StringIO()
        options = ServedRegionOptions(
            path, "vm0", REGION_ADDRESS, REGION_SIZE, BLOCK, requested_size=REGION_SIZE, record=trace
        )
        served = ServedRegion(
            options, [container], kernel=kernel, coordination=DiscardCoordination(), changed=list, say=told.append
        )
        backend = Elsewhere(path)
        front_end = FrontEnd(backend)
        assert ask(started(front_end, "split"), PLUG, REGION_ADDRESS, 2) == ACK
        front_end.region.bytes[:5] = b"guest"
        assert container.mapping_count == 2
        served.managed.device.migrating = True
        assert ask(restarted(front_end, "packed"), UNPLUG_ALL) == BUSY
        assert served.managed.guest.waiting_for == "unplug all: migrating"
        served.close()
        served.close()
        assert front_end.gone()
        assert (container.mapping_count, front_end.region.resident()) == (0, 2 * BLOCK)
        assert front_end.region.bytes[:5] == b"guest"
        front_end.close()
    assert told[:2] == ["vm0: a front end has connected", "vm0: 32 MiB of the front end's memory are the region"]
    assert "vm0: UNPLUG_ALL answered BUSY: unplug all: migrating" in told
    assert [*tmp_path.iterdir()] == []
    steps = [*replay(trace.getvalue().splitlines())]
    assert [len(step["dma"]) for step in steps if step["dma"]] == [2]


def test_refusals_are_said_once_an_interval_and_shown(tmp_path: Path) -> None:
    told: list[str] = []
    changes: list[None] = []
    options = ServedRegionOptions(
        str(tmp_path / "socket"), "vm0", REGION_ADDRESS, REGION_SIZE, BLOCK, requested_size=2 * BLOCK
    )
    with ServedRegion(
        options,
        [],
        kernel=LinuxKernel(),
        coordination=DiscardCoordination(),
        changed=lambda: changes.append(None),
        say=told.append,
    ) as served:

        def waiting_for() -> str | None:
            return served.managed.guest.waiting_for

        front_end = FrontEnd(Elsewhere(options.path))
        driver = started(front_end, "split")
        assert ask(driver, STATE, REGION_ADDRESS, 1) is not None
        changes.clear()
        for _ in range(100):
            assert ask(driver, PLUG, REGION_ADDRESS, 3) == NACK
        too_much = "plug of 3 blocks at 0x1_0000_0000: 0x60_0000 bytes would be plugged, and 0x40_0000 are requested"
        not_plugged = "unplug of 1 block at 0x1_0000_0000: some of the blocks are not plugged"
        assert waiting_for() == too_much
        # Nobody who watches is told again of what is shown already.
        assert len(changes) == 1
        assert told.count(f"vm0: PLUG answered NACK: {too_much}") == 1
        # It is in the way for as long as this much is requested.
        served.managed.device.resize(3 * BLOCK)
        assert waiting_for() is None
        assert ask(driver, UNPLUG, REGION_ADDRESS, 1) == ERROR
        assert waiting_for() == not_plugged
        assert ask(driver, STATE, REGION_ADDRESS, 0) == ERROR
        # An answer to a question is in nobody's way.
        assert waiting_for() == not_plugged
        assert ask(driver, PLUG, REGION_ADDRESS, 3) == ACK
        assert waiting_for() is None
        front_end.close()


def test_a_driver_that_was_refused_is_shown_as_refused(tmp_path: Path) -> None:
    told: list[str] = []
    options = ServedRegionOptions(str(tmp_path / "socket"), "vm0", REGION_ADDRESS, REGION_SIZE, BLOCK)
    with ServedRegion(
        options, [], kernel=LinuxKernel(), coordination=DiscardCoordination(), changed=list, say=told.append
    ) as served:
        front_end = FrontEnd(Elsewhere(options.path))
        front_end.connect()
        front_end.start(FEATURES & ~2)
        assert front_end.number(Request.GET_FEATURES)
        guest = served.managed.guest
        assert guest.state == "vhost-user: its driver was refused"
        assert "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE" in str(guest.waiting_for)
        assert "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE" in told[-1] + told[-2]
        front_end.stop()
        front_end.close()


def test_a_front_end_that_comes_and_goes_does_not_fill_what_the_host_reads(tmp_path: Path) -> None:
    told: list[str] = []
    options = ServedRegionOptions(str(tmp_path / "socket"), "vm0", REGION_ADDRESS, REGION_SIZE, BLOCK)
    with ServedRegion(
        options, [], kernel=LinuxKernel(), coordination=DiscardCoordination(), changed=list, say=told.append
    ):
        for _ in range(200):
            FrontEnd(Elsewhere(options.path)).close()
    assert len(told) < 100


def test_base_of_a_ring_that_never_ran(front_end: FrontEnd) -> None:
    front_end.connect()
    front_end.send(Request.SET_VRING_BASE, state(7))
    assert front_end.stop() == 7
