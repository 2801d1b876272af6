"""Rings, tables and messages of any content: the process lives, memory outside is untouched, a reset repairs all."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.thorough import examples
from tests.support.vhost_user.driver import INDIRECT as INDIRECT_FLAG
from tests.support.vhost_user.driver import NEXT, REQUEST, TABLE, WRITE, ask, restarted, started
from tests.support.vhost_user.front_end import (
    EVENT_IDX,
    INDIRECT,
    QUEUE_SIZE,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    Bench,
    FrontEnd,
    Request,
)
from virtiomem import RequestType, Response, ResponseType
from virtiomem.device import REQUEST_SIZE
from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader

EXAMPLES = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Values with a meaning are likelier to go wrong than any others.
addresses = st.one_of(
    st.sampled_from([0, REQUEST, TABLE, RAM_SIZE - 1, RAM_SIZE, REGION_ADDRESS, REGION_ADDRESS + REGION_SIZE - 8]),
    st.integers(0, RAM_SIZE),
    st.integers((1 << 64) - 64, (1 << 64) - 1),
)
lengths = st.one_of(st.sampled_from([0, 1, 10, 16, 24, 32, 4096, 0xFFFF_FFFF, 0x8000_0000]), st.integers(0, 256))
bits = st.sampled_from([0, NEXT, WRITE, NEXT | WRITE, INDIRECT_FLAG, INDIRECT_FLAG | NEXT, 7, 0xFFFF])
split_descriptors = st.tuples(addresses, lengths, bits, st.integers(0, QUEUE_SIZE + 1))
packed_descriptors = st.tuples(
    addresses, lengths, st.integers(0, 0xFFFF), st.tuples(bits, st.sampled_from([0, 0x80, 0x8000]))
)
guest_requests = st.one_of(
    st.binary(min_size=REQUEST_SIZE, max_size=REQUEST_SIZE),
    st.builds(
        lambda kind, addr, count: struct.pack("<H6xQH6x", kind, addr, count),
        st.integers(0, 5),
        st.one_of(addresses, st.just(REGION_ADDRESS)),
        st.integers(0, 20),
    ),
)


@contextmanager
def connected() -> Iterator[tuple[Bench, FrontEnd]]:
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(str(Path(directory, "socket")))
        front_end = FrontEnd(bench)
        try:
            yield bench, front_end
        finally:
            front_end.close()
            bench.close()


@EXAMPLES
@given(
    descriptors=st.lists(split_descriptors, min_size=QUEUE_SIZE, max_size=QUEUE_SIZE),
    table=st.lists(split_descriptors, min_size=3, max_size=3),
    heads=st.lists(st.integers(0, QUEUE_SIZE + 1), min_size=QUEUE_SIZE, max_size=QUEUE_SIZE),
    index=st.one_of(st.integers(0, QUEUE_SIZE + 1), st.integers(0, 0xFFFF)),
    request_=guest_requests,
    features=st.sampled_from([0, INDIRECT, INDIRECT | EVENT_IDX]),
)
def test_split_rings(
    descriptors: list[tuple[int, int, int, int]],
    table: list[tuple[int, int, int, int]],
    heads: list[int],
    index: int,
    request_: bytes,
    features: int,
) -> None:
    with connected() as (bench, front_end):
        started(front_end, "split", features)
        ram = front_end.ram.bytes
        for place, rows in ((0, descriptors), (TABLE, table)):
            for number, row in enumerate(rows):
                struct.pack_into("<QIHH", ram, place + 16 * number, *row)
        struct.pack_into(f"<HH{QUEUE_SIZE}H", ram, 0x1000, 0, index, *heads)
        ram[REQUEST : REQUEST + REQUEST_SIZE] = request_
        front_end.notify()
        assert_alive(bench, front_end, "split")


@EXAMPLES
@given(
    descriptors=st.lists(packed_descriptors, min_size=QUEUE_SIZE, max_size=QUEUE_SIZE),
    table=st.lists(packed_descriptors, min_size=3, max_size=3),
    request_=guest_requests,
    features=st.sampled_from([0, INDIRECT, INDIRECT | EVENT_IDX]),
)
def test_packed_rings(
    descriptors: list[tuple[int, int, int, tuple[int, int]]],
    table: list[tuple[int, int, int, tuple[int, int]]],
    request_: bytes,
    features: int,
) -> None:
    with connected() as (bench, front_end):
        started(front_end, "packed", features)
        ram = front_end.ram.bytes
        for place, rows in ((0, descriptors), (TABLE, table)):
            for number, (address, size, identity, flags) in enumerate(rows):
                struct.pack_into("<QIHH", ram, place + 16 * number, address, size, identity, flags[0] | flags[1])
        ram[REQUEST : REQUEST + REQUEST_SIZE] = request_
        front_end.notify()
        assert_alive(bench, front_end, "packed")


def assert_alive(bench: Bench, front_end: FrontEnd, kind: str) -> None:
    """No answer is later than its request, the device is whole, and a driver that keeps to the rules is served."""
    assert bench.served.connected
    assert bench.device.discards.divergences == ()
    plugged = bench.device.plugged_size
    assert front_end.region.resident() >= plugged
    driver = restarted(front_end, kind)
    assert ask(driver, RequestType.UNPLUG_ALL) == Response(ResponseType.ACK)
    assert bench.device.plugged_size == 0


payloads = st.one_of(
    st.binary(max_size=64),
    st.lists(st.integers(0, 2), max_size=6).map(lambda words: struct.pack(f"={len(words)}Q", *words)),
    st.lists(
        st.one_of(addresses, st.sampled_from([RAM_SIZE, RAM_USER_ADDRESS, REGION_SIZE])), min_size=4, max_size=4
    ).map(lambda words: struct.pack("=II4Q", 1, 0, *words)),
    st.lists(addresses, min_size=4, max_size=4).map(lambda words: struct.pack("=II4Q", 0, 0, *words)),
)
messages = st.tuples(
    st.one_of(st.sampled_from(list(Request)), st.integers(0, 50)),
    st.sampled_from([0, abi.VHOST_USER_NEED_REPLY_MASK]),
    payloads,
    st.integers(0, 2),
)


@pytest.mark.parametrize("running", [False, True])
@EXAMPLES
@given(sent=st.lists(messages, max_size=12))
def test_messages(sent: list[tuple[int, int, bytes, int]], running: bool) -> None:
    with connected() as (bench, front_end):
        if running:
            started(front_end, "split")
        for request, flags, payload, count in sent:
            try:
                front_end.send(request, payload, [front_end.ram.fd] * count, flags)
            except (BrokenPipeError, ConnectionResetError):
                break
        front_end.vanish()
        assert not bench.served.connected
        later = FrontEnd(bench, region=front_end.region)
        assert ask(started(later, "split"), RequestType.UNPLUG_ALL) == Response(ResponseType.ACK)
        later.vanish()


@EXAMPLES
@given(data=st.binary(max_size=200), version=st.booleans())
def test_bytes(data: bytes, version: bool) -> None:
    with connected() as (bench, front_end):
        if version:
            header = VhostUserHeader(request=int.from_bytes(data[:1], "little"), flags=1, size=len(data[1:]))
            data = bytes(header) + data[1:]
        front_end.socket.send(data)
        front_end.vanish()
        assert not bench.served.connected
