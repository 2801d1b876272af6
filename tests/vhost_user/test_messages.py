"""What a front end may send, and what ends its connection without harm to the device."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from pyvfio.unix_socket import Listener
from tests.support.vhost_user.driver import SplitDriver, ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    FEATURES,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    Bench,
    FrontEnd,
    Request,
    mem_reg,
    region,
    ring_address,
    state,
    table,
    u64,
)
from virtiomem import RequestType, Response, ResponseType
from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.abi.vhost_user import VhostUserConfig, VhostUserHeader

ACK = Response(ResponseType.ACK)


def test_the_socket_is_its_owners_only(bench: Bench) -> None:
    assert stat.S_IMODE(Path(bench.served.path).stat().st_mode) == 0o600


def test_what_is_offered(front_end: FrontEnd) -> None:
    offered = front_end.number(Request.GET_FEATURES)
    assert offered == 1 << 1 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 34
    extensions = front_end.number(Request.GET_PROTOCOL_FEATURES)
    assert extensions == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16
    assert front_end.number(Request.GET_MAX_MEM_SLOTS) == 64


def test_the_config_space(bench: Bench, front_end: FrontEnd) -> None:
    config = bytes(bench.device.config)
    assert front_end.config() == config
    assert front_end.config(8, 48) == config[48:]
    assert front_end.ask(Request.GET_CONFIG, bytes(VhostUserConfig(offset=52, size=8)) + bytes(8)) == b""
    assert front_end.ask(Request.GET_CONFIG, bytes(VhostUserConfig(offset=1 << 31, size=8)) + bytes(8)) == b""
    front_end.send(Request.SET_CONFIG, bytes(VhostUserConfig(offset=48, size=8)) + u64(BLOCK))
    assert front_end.config() == config


def test_acknowledgements(front_end: FrontEnd) -> None:
    front_end.connect()
    assert front_end.acknowledged(Request.SET_VRING_NUM, state(8))
    assert front_end.acknowledged(Request.SET_STATUS, u64(1))
    assert front_end.number(Request.GET_STATUS) == 1
    assert not front_end.acknowledged(abi.VHOST_USER_SEND_RARP, u64(0))
    assert not front_end.acknowledged(99)


def header(request: int, size: int, version: int = 1) -> bytes:
    return bytes(VhostUserHeader(request=request, flags=version, size=size))


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (header(1, 0, version=0), "not version 1"),
        (header(1, 0, version=2), "not version 1"),
        (header(1, 4097), "no message is that long"),
        (header(1, 0xFFFF_FFFF), "no message is that long"),
        (header(1, 8) + u64(0), "8 bytes instead of 0"),
        (header(99, 0), "request 99: it was not offered"),
        (header(abi.VHOST_USER_SET_LOG_BASE, 0), "it was not offered"),
        (header(Request.SET_FEATURES, 4) + bytes(4), "4 bytes instead of 8"),
        (header(Request.SET_FEATURES, 8) + u64(1 << 63), "were not offered"),
        (header(Request.SET_PROTOCOL_FEATURES, 8) + u64(1 << 1), "were not offered"),
        (header(Request.SET_MEM_TABLE, 4) + bytes(4), "its payload has 4 bytes"),
        (header(Request.SET_MEM_TABLE, 8) + struct.pack("=II", 9, 0), "9 regions"),
        (header(Request.SET_MEM_TABLE, 8) + struct.pack("=II", 1, 0), "8 bytes instead of 40"),
        (header(Request.SET_MEM_TABLE, 8) + struct.pack("=II", 1 << 31, 0), f"{1 << 31} regions"),
        (header(Request.ADD_MEM_REG, 8) + bytes(8), "8 bytes instead of 40"),
        (header(Request.ADD_MEM_REG, 40) + bytes(40), "0 descriptors came with it"),
        (header(Request.REM_MEM_REG, 40) + bytes(40), "there is no such region"),
        (header(Request.SET_VRING_NUM, 8) + state(0), "no ring has that size"),
        (header(Request.SET_VRING_NUM, 8) + state(1 << 16), "no ring has that size"),
        (header(Request.SET_VRING_NUM, 8) + state(8, index=1), "ring 1 does not exist"),
        (header(Request.SET_VRING_BASE, 8) + state(8, index=0xFFFF_FFFF), "does not exist"),
        (header(Request.GET_VRING_BASE, 8) + state(0, index=2), "ring 2 does not exist"),
        (header(Request.SET_VRING_ENABLE, 8) + state(2), "enabled is 2"),
        (header(Request.SET_VRING_ADDR, 8) + bytes(8), "8 bytes instead of 40"),
        (header(Request.SET_VRING_KICK, 8) + u64(0), "0 descriptors came with it"),
        (header(Request.SET_VRING_KICK, 8) + u64(0x100), "it wants the ring polled"),
        (header(Request.SET_VRING_CALL, 8) + u64(1), "ring 1 does not exist"),
        (header(Request.SET_BACKEND_REQ_FD, 0), "0 descriptors came with it"),
        (header(Request.GET_CONFIG, 8) + bytes(8), "its payload has 8 bytes"),
        (header(Request.GET_CONFIG, 12) + bytes(VhostUserConfig(size=8)), "8 bytes of config space"),
        (header(Request.GET_CONFIG, 12) + bytes(VhostUserConfig(size=1 << 31)), "bytes of config space"),
    ],
)
def test_what_ends_a_connection(bench: Bench, front_end: FrontEnd, data: bytes, meaning: str) -> None:
    front_end.socket.send(data)
    bench.settle()
    assert front_end.gone()
    assert meaning in bench.heard.last("disconnected")


@pytest.mark.parametrize(
    "data",
    [header(Request.GET_FEATURES, 0)[:5], header(Request.SET_FEATURES, 8) + bytes(3), b""],
)
def test_a_message_may_come_in_pieces_or_never(bench: Bench, front_end: FrontEnd, data: bytes) -> None:
    front_end.socket.send(data)
    bench.settle()
    assert bench.served.connected
    front_end.vanish()
    assert not bench.served.connected


def test_a_message_in_pieces_is_one(front_end: FrontEnd) -> None:
    for byte in header(Request.GET_FEATURES, 0):
        front_end.socket.send(bytes([byte]))
        front_end.backend.settle()
    assert front_end.reply()[0] == Request.GET_FEATURES


def send_files(front_end: FrontEnd, count: int, request: int, payload: bytes) -> None:
    files = [os.memfd_create("file") for _ in range(count)]
    try:
        front_end.send(request, payload, files)
    finally:
        for fd in files:
            os.close(fd)


@pytest.mark.parametrize(
    ("count", "request_", "payload", "meaning"),
    [
        (9, Request.SET_MEM_TABLE, u64(0), "too many descriptors"),
        (100, Request.GET_FEATURES, b"", "too many descriptors"),
        (2, Request.SET_VRING_CALL, u64(0), "2 descriptors came with it instead of 1"),
        (2, Request.SET_MEM_TABLE, table(region(0, 4096, 0)), "2 descriptors came with it instead of 1"),
        (1, Request.SET_MEM_TABLE, table(region(0, 4096, 0)), "its file is too short"),
        (1, Request.SET_BACKEND_REQ_FD, b"", "its descriptor is no connected unix stream socket"),
    ],
)
def test_descriptors_that_do_not_belong(
    bench: Bench, front_end: FrontEnd, count: int, request_: int, payload: bytes, meaning: str
) -> None:
    """None of them stays open: the bench looks."""
    send_files(front_end, count, request_, payload)
    assert front_end.gone()
    assert meaning in bench.heard.last("disconnected")


def test_descriptors_nobody_asked_for_are_closed(front_end: FrontEnd) -> None:
    send_files(front_end, 3, Request.GET_FEATURES, b"")
    assert front_end.reply()[0] == Request.GET_FEATURES


@pytest.mark.parametrize(
    ("entry", "meaning"),
    [
        (region(0, 0, RAM_USER_ADDRESS), "it is empty or its end wraps"),
        (region((1 << 64) - 4096, 8192, RAM_USER_ADDRESS), "it is empty or its end wraps"),
        (region(0, 8192, (1 << 64) - 4096), "it is empty or its end wraps"),
        (region(0, 8192, RAM_USER_ADDRESS, offset=(1 << 64) - 4096), "it is empty or its end wraps"),
        (region(0, RAM_SIZE + 4096, RAM_USER_ADDRESS), "its file is too short"),
        (region(0, 4096, RAM_USER_ADDRESS, offset=RAM_SIZE), "its file is too short"),
    ],
)
def test_regions_that_cannot_be(bench: Bench, front_end: FrontEnd, entry: object, meaning: str) -> None:
    assert isinstance(entry, ctypes.Structure)
    front_end.send(Request.SET_MEM_TABLE, table(entry), [front_end.ram.fd])  # type: ignore[arg-type]
    assert front_end.gone()
    assert meaning in bench.heard.last("disconnected")


@pytest.mark.parametrize("moved", [(0, 1 << 40), (1 << 40, 0)])
def test_regions_do_not_overlap(bench: Bench, front_end: FrontEnd, moved: tuple[int, int]) -> None:
    twice = [region(0, 8192, RAM_USER_ADDRESS), region(4096 + moved[0], 8192, RAM_USER_ADDRESS + 4096 + moved[1])]
    front_end.send(Request.SET_MEM_TABLE, table(*twice), [front_end.ram.fd] * 2)
    assert front_end.gone()
    assert "overlaps" in bench.heard.last("disconnected")


def test_a_ring_is_not_described_anew_while_it_runs(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    front_end.send(Request.SET_VRING_NUM, state(4))
    assert front_end.gone()
    assert "the ring is running" in bench.heard.last("disconnected")


def test_logging_was_not_offered(bench: Bench, front_end: FrontEnd) -> None:
    address = ring_address()
    address.flags = 1
    front_end.send(Request.SET_VRING_ADDR, bytes(address))
    assert "logging was not offered" in bench.heard.last("disconnected")


def test_a_front_end_that_does_not_read_is_sent_away(bench: Bench, front_end: FrontEnd) -> None:
    front_end.socket.setblocking(False)
    try:
        while bench.served.connected:
            front_end.send(Request.GET_FEATURES)
    except (BlockingIOError, BrokenPipeError):
        bench.settle()
    assert "does not read" in bench.heard.last("disconnected")


def test_only_one_front_end_at_a_time(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    second = FrontEnd(bench)
    second.socket.send(header(Request.GET_FEATURES, 0))
    bench.settle()
    assert ask(driver, RequestType.UNPLUG_ALL) == ACK
    front_end.vanish()
    assert second.reply()[0] == Request.GET_FEATURES
    second.close()


def test_an_old_front_end(bench: Bench, front_end: FrontEnd) -> None:
    """Without protocol features a ring is enabled as soon as it is described."""
    front_end.protocol_features = 0
    front_end.send(Request.SET_OWNER)
    front_end.start(FEATURES & ~(1 << 30))
    assert ask(SplitDriver(front_end), RequestType.PLUG, REGION_ADDRESS, 1) == ACK
    front_end.stop()
    assert bench.device.negotiated == 0


def test_memory_slot_by_slot(bench: Bench, front_end: FrontEnd) -> None:
    front_end.connect()
    ram, ours = front_end.regions()
    assert front_end.acknowledged(Request.ADD_MEM_REG, mem_reg(ram), [front_end.ram.fd])
    assert front_end.acknowledged(Request.ADD_MEM_REG, mem_reg(ours), [front_end.region.fd])
    assert bench.heard.last("attached") == f"attached {REGION_SIZE:#x}"
    assert front_end.acknowledged(Request.REM_MEM_REG, mem_reg(ours))
    assert bench.memory.attached
    front_end.send(Request.ADD_MEM_REG, mem_reg(ram), [front_end.ram.fd])
    assert "overlaps" in bench.heard.last("disconnected")


def test_a_socket_in_use_is_not_taken(bench: Bench) -> None:
    with pytest.raises(OSError, match="another process serves it"):
        Listener(bench.served.path)
    bench.settle()


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="no socket"):
        Listener(str(tmp_path / "file"))


def test_a_socket_left_behind_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    listener = Listener(path)
    listener.close()
    listener.close()
    assert not Path(path).exists()
