"""Whatever a front end sends ends its own session at most, and nothing that it does makes this end wait."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio import LinuxKernel
from tests.support.vhost_user.driver import INDIRECT as INDIRECT_FLAG
from tests.support.vhost_user.driver import NEXT, REQUEST, USUAL, WRITE, Buffer, ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    FEATURES,
    INDIRECT,
    MIB,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    REGION_USER_ADDRESS,
    VERSION_1,
    Bench,
    FrontEnd,
    Request,
    Shared,
    mem_reg,
    region,
    ring_address,
    state,
    table,
    u64,
)
from virtiomem import Request as GuestRequest
from virtiomem import RequestType, Response, ResponseType
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader

ACK, BUSY = Response(ResponseType.ACK), Response(ResponseType.BUSY)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


def o_path() -> int:
    return os.open("/dev/null", os.O_PATH)


def zeros() -> int:
    return os.open("/dev/zero", os.O_RDWR)


def directory() -> int:
    return os.open("/", os.O_RDONLY)


def plain_file() -> int:
    return os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)


def unconnected() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def datagrams() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def listening() -> int:
    server = socket.socket(socket.AF_UNIX)
    server.bind("")
    server.listen()
    return server.detach()


def packets() -> int:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.close()
    return one.detach()


def event() -> int:
    return os.eventfd(0)


KINDS = (o_path, zeros, directory, plain_file, unconnected, datagrams, listening, packets)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_what_is_no_eventfd_is_no_event(
    bench: Bench, front_end: FrontEnd, make: Callable[[], int], request_: Request
) -> None:
    started(front_end, "split")
    fd = make()
    front_end.send(request_, u64(0), [fd])
    os.close(fd)
    assert front_end.gone()
    assert "no eventfd" in bench.heard.last("disconnected")


@pytest.mark.parametrize("make", [*KINDS, event])
def test_what_is_no_connection_is_no_channel(bench: Bench, front_end: FrontEnd, make: Callable[[], int]) -> None:
    started(front_end, "split")
    fd = make()
    front_end.send(Request.SET_BACKEND_REQ_FD, b"", [fd])
    os.close(fd)
    assert front_end.gone()
    assert "no socket" in bench.heard.last("disconnected") or "no connected" in bench.heard.last("disconnected")
    bench.device.resize(2 * BLOCK)
    bench.settle()


@pytest.mark.parametrize("make", [*KINDS, event])
def test_what_is_no_file_is_no_memory(bench: Bench, front_end: FrontEnd, make: Callable[[], int]) -> None:
    started(front_end, "split")
    fd = make()
    front_end.send(Request.ADD_MEM_REG, mem_reg(region(1 << 40, MIB, 1 << 40)), [fd])
    os.close(fd)
    assert front_end.gone()
    assert "its descriptor is no file of memory" in bench.heard.last("disconnected") or make is plain_file


def test_a_file_system_that_says_0(bench: Bench, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE passes on what its server says."""
    for size in (0, 1, 3000, 1 << 62):
        status = os.statvfs_result([size, size, 0, 0, 0, 0, 0, 0, 0, 255])
        monkeypatch.setattr(os, "fstatvfs", lambda _, status=status: status)
        front_end.connect()
        front_end.share()
        assert bench.memory.attached
    assert bench.served.connected


def test_more_memory_than_there_are_addresses(bench: Bench, front_end: FrontEnd) -> None:
    front_end.connect()
    with tempfile.TemporaryFile() as sparse:
        try:
            os.ftruncate(sparse.fileno(), 1 << 43)
        except OSError:
            pytest.skip("no file is that long here")
        for number in range(3):
            entry = region(1 << 50 | number << 43, 1 << 43, 1 << 50 | number << 43)
            front_end.send(Request.ADD_MEM_REG, mem_reg(entry), [sparse.fileno()])
    assert "a guest has at most 16 TiB here" in bench.heard.last("disconnected")


@pytest.mark.parametrize("which", ["call", "error"])
def test_an_event_that_its_owner_has_filled_and_made_blocking(bench: Bench, front_end: FrontEnd, which: str) -> None:
    """Both ends have one file description: its flags and its counter are the front end's to change."""
    driver = started(front_end, "split")
    fd = front_end.call if which == "call" else front_end.error
    os.eventfd_write(fd, 0xFFFF_FFFF_FFFF_FFFE)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    # Whoever waits for it all the same gets on after a while.
    rescue = threading.Timer(5.0, lambda: os.eventfd_read(fd))
    rescue.start()
    before = time.monotonic()
    if which == "call":
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    else:
        assert ask(driver, PLUG, buffers=(Buffer(REQUEST, 0), USUAL[1])) is None
        assert "a buffer is empty" in bench.heard.last("broken")
    assert time.monotonic() - before < 4.0
    rescue.cancel()
    # Its reader sees that there was a signal: the counter is full.
    assert os.eventfd_read(fd) >= 0xFFFF_FFFF_FFFF_FFFE
    assert bench.served.connected


def test_an_event_keeps_the_flags_its_owner_gave_it(front_end: FrontEnd) -> None:
    os.set_blocking(front_end.call, True)
    started(front_end, "split")
    assert os.get_blocking(front_end.call)


def test_a_kick_that_its_owner_empties_is_not_waited_for(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    os.set_blocking(front_end.kick, True)
    os.eventfd_write(front_end.kick, 1)
    os.eventfd_read(front_end.kick)
    rescue = threading.Timer(5.0, lambda: os.eventfd_write(front_end.kick, 1))
    rescue.start()
    before = time.monotonic()
    bench.served.ready(front_end_kick(bench))
    assert time.monotonic() - before < 4.0
    rescue.cancel()


def front_end_kick(bench: Bench) -> int:
    """The kick's descriptor, which is the last that the device waits for."""
    return bench.served.descriptors[-1]


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many can be opened, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def test_without_a_descriptor_for_whoever_connects(bench: Bench) -> None:
    """It waits, and so does this end: not by asking for nothing else."""
    with socket.socket(socket.AF_UNIX) as peer:
        with descriptors_left(0):
            peer.connect(bench.path)
            bench.settle()
            assert bench.heard.words == []
            assert bench.served.next_event_time is not None
            assert len(bench.served.descriptors) == 1
        while not bench.served.connected:
            bench.server.turn(1.0)
    bench.settle()


def test_without_a_descriptor_for_what_is_sent(bench: Bench, front_end: FrontEnd) -> None:
    front_end.connect()
    with descriptors_left(0):
        front_end.send(Request.SET_VRING_CALL, u64(0), [front_end.call])
    assert front_end.gone()
    assert "has none left" in bench.heard.last("disconnected")


def test_without_a_descriptor_for_the_regions_memory(bench: Bench, front_end: FrontEnd) -> None:
    front_end.connect()
    with descriptors_left(2):
        front_end.share()
    assert "attach memory" in bench.heard.last("refused SET_MEM_TABLE")
    assert bench.served.connected
    driver = started(front_end, "split")
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK


def test_a_flood_of_messages_leaves_turns_to_others(bench: Bench, front_end: FrontEnd) -> None:
    """As many a turn as is written in the session, and no more."""
    front_end.connect()
    header = bytes(VhostUserHeader(request=int(Request.SET_VRING_NUM), flags=1, size=8))
    front_end.socket.sendall(b"".join(header + state(1 << number % 8) for number in range(200)))
    turns = 0
    while LinuxKernel().poll(bench.served.descriptors, 0):
        bench.server.turn(0)
        turns += 1
    assert turns >= 200 // 32
    assert bench.served.connected


def test_a_flood_of_buffers_leaves_turns_to_others(bench: Bench, front_end: FrontEnd) -> None:
    """Of requests that have many the turn answers fewer."""
    size = 512
    front_end.connect()
    front_end.start(FEATURES | INDIRECT, size=size)
    ram = front_end.ram.bytes
    tables, avail, used = 0x10000, 0x4000, 0x6000
    address = ring_address()
    address.avail_user_addr, address.used_user_addr = RAM_USER_ADDRESS + avail, RAM_USER_ADDRESS + used
    front_end.send(Request.SET_VRING_ADDR, bytes(address))
    ram[0xF000 : 0xF000 + 24] = bytes(GuestRequest(STATE, REGION_ADDRESS, 1))
    for number in range(size):
        flags = (WRITE if number else 0) | (NEXT if number < size - 1 else 0)
        place = 0xF000 + 64 * bool(number)
        struct.pack_into("<QIHH", ram, tables + 16 * number, place, 24, flags, number + 1)
    for number in range(64):
        struct.pack_into("<QIHH", ram, 16 * number, tables, 16 * size, INDIRECT_FLAG, 0)
        struct.pack_into("<H", ram, avail + 4 + 2 * number, number)
    struct.pack_into("<H", ram, avail + 2, 64)
    os.eventfd_write(front_end.kick, 1)
    answered = []
    while (count := struct.unpack_from("<H", ram, used + 2)[0]) < 64:
        bench.server.turn(0)
        answered.append(count)
    assert len(answered) > 16


def test_reset_device_forgets_what_was_negotiated_and_disables_the_ring(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    front_end.send(Request.RESET_DEVICE)
    assert front_end.number(Request.GET_STATUS) == 0
    extra = Shared(2 * MIB)
    front_end.send(Request.ADD_MEM_REG, mem_reg(region(1 << 40, 2 * MIB, 1 << 40)), [extra.fd])
    front_end.send(Request.SET_VRING_ENABLE, state(1))
    assert ask(driver, STATE, REGION_ADDRESS, 1) is None
    assert bench.heard.words[-1] == "stopped"
    assert bench.device.plugged_size == BLOCK
    front_end.ram.bytes[:0x3000] = bytes(0x3000)
    assert ask(started(front_end, "split"), UNPLUG, REGION_ADDRESS, 1) == ACK
    extra.close()


@pytest.mark.parametrize("request_", [Request.RESET_OWNER, Request.SET_STATUS])
def test_what_stops_a_device_disables_its_ring(front_end: FrontEnd, request_: Request) -> None:
    driver = started(front_end, "split")
    front_end.send(request_, u64(0) if request_ == Request.SET_STATUS else b"")
    extra = Shared(2 * MIB)
    front_end.send(Request.ADD_MEM_REG, mem_reg(region(1 << 40, 2 * MIB, 1 << 40)), [extra.fd])
    assert ask(driver, STATE, REGION_ADDRESS, 1) is None
    extra.close()


@pytest.mark.parametrize(
    ("lacking", "name"), [(VERSION_1, "VIRTIO_F_VERSION_1"), (2, "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE")]
)
def test_a_driver_that_lacks_what_it_takes_is_refused_by_name(
    bench: Bench, front_end: FrontEnd, lacking: int, name: str
) -> None:
    front_end.connect()
    assert not front_end.acknowledged(Request.SET_FEATURES, u64(FEATURES & ~lacking))
    assert name in bench.heard.last("refused driver")
    front_end.start(FEATURES & ~lacking)
    assert not [word for word in bench.heard.words if word.startswith("started")]
    assert not front_end.number(Request.GET_STATUS) & 8
    front_end.stop()
    assert ask(started(front_end, "split"), PLUG, REGION_ADDRESS, 1) == ACK


def test_a_ring_that_runs_runs_on_when_other_features_are_refused(front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    assert not front_end.acknowledged(Request.SET_FEATURES, u64(FEATURES & ~2))
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    front_end.share()
    assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == ACK


@pytest.mark.parametrize("how", ["no region of it can be mapped", "the region's is refused"])
def test_a_ring_that_runs_runs_on_when_a_memory_table_is_refused(bench: Bench, front_end: FrontEnd, how: str) -> None:
    driver = started(front_end, "split")
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    ram, ours = front_end.regions()
    other = Shared(REGION_SIZE + BLOCK)
    if how == "the region's is refused":
        payload = table(ram, region(REGION_ADDRESS, REGION_SIZE + BLOCK, REGION_USER_ADDRESS))
        fds = [front_end.ram.fd, other.fd]
    else:
        write_only = os.open(f"/proc/self/fd/{other.fd}", os.O_WRONLY)
        payload, fds = table(ram, ours, region(1 << 40, BLOCK, 1 << 40)), [front_end.ram.fd, front_end.region.fd]
        fds.append(write_only)
    assert not front_end.acknowledged(Request.SET_MEM_TABLE, payload, fds)
    if how == "the region's is refused":
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == BUSY
        front_end.share()
    else:
        os.close(write_only)
    assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == ACK
    assert bench.device.plugged_size == 2 * BLOCK
    other.close()


def test_a_resize_while_the_front_end_is_away_is_told_when_it_is_back(bench: Bench) -> None:
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 1) == ACK
    first.vanish()
    bench.device.resize(4 * BLOCK)
    bench.settle()
    second = FrontEnd(bench, region=first.region)
    second.connect()
    assert second.changes() == 0
    second.start()
    assert second.changes() == 1
    second.close()


def test_a_fault_in_this_server_costs_one_session(
    bench: Bench, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> bytes:
        raise ZeroDivisionError(errno.EDOM)

    monkeypatch.setattr(type(bench.device), "handle", fault)
    driver = started(front_end, "split")
    assert ask(driver, STATE, REGION_ADDRESS, 1) is None
    assert "ZeroDivisionError in this server" in bench.heard.last("disconnected")
    assert "handling a front end failed" in caplog.text
    monkeypatch.undo()
    other = FrontEnd(bench, region=front_end.region)
    assert ask(started(other, "split"), STATE, REGION_ADDRESS, 1) is not None
    other.vanish()
