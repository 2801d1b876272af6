"""What no driver may put into a ring: the queue breaks, the guest is told, the process lives, a reset repairs it."""

from __future__ import annotations

import os
import struct

import pytest

from tests.support.vhost_user.driver import (
    ANSWER,
    DRIVERS,
    INDIRECT,
    REQUEST,
    TABLE,
    USUAL,
    WRITE,
    Buffer,
    SplitDriver,
    ask,
    restarted,
    started,
    write_table,
)
from tests.support.vhost_user.front_end import (
    FEATURES,
    QUEUE_SIZE,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    Bench,
    FrontEnd,
    Request,
    ring_address,
    state,
    u64,
)
from tests.support.vhost_user.front_end import INDIRECT as INDIRECT_FEATURE
from virtiomem import RequestType, Response, ResponseType

NEEDS_RESET = 0x40
NO_MEMORY = 0x4000_0000
ACK = Response(ResponseType.ACK)
UNPLUG_ALL = RequestType.UNPLUG_ALL


def assert_broken(bench: Bench, front_end: FrontEnd, meaning: str) -> None:
    assert meaning in bench.heard.last("broken")
    assert front_end.number(Request.GET_STATUS) & NEEDS_RESET
    assert front_end.told_of_error()
    assert not front_end.called()
    # It is served no more, however often it is kicked.
    front_end.notify()
    assert sum(word.startswith("broken") for word in bench.heard.words) == 1


def assert_repaired(bench: Bench, front_end: FrontEnd, kind: str) -> None:
    """A reset, and a driver that keeps to the rules."""
    assert ask(restarted(front_end, kind), UNPLUG_ALL) == ACK
    assert not front_end.number(Request.GET_STATUS) & NEEDS_RESET
    assert bench.device.broken is False


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    ("buffers", "meaning"),
    [
        ((Buffer(RAM_SIZE, 24), USUAL[1]), "not the guest's memory"),
        ((Buffer(RAM_SIZE - 8, 24), USUAL[1]), "not the guest's memory"),
        ((Buffer(NO_MEMORY, 1), USUAL[1]), "not the guest's memory"),
        ((Buffer((1 << 64) - 8, 24), USUAL[1]), "not the guest's memory"),
        ((Buffer(REQUEST, 0xFFFF_FFFF), USUAL[1]), "not the guest's memory"),
        ((Buffer(REGION_ADDRESS + REGION_SIZE - 1, 2), USUAL[1]), "not the guest's memory"),
        ((USUAL[0], Buffer(REGION_ADDRESS - 1, 10, WRITE)), "not the guest's memory"),
        ((Buffer(REQUEST, 0), USUAL[1]), "a buffer is empty"),
        ((USUAL[1], USUAL[0]), "a readable buffer follows a writable one"),
        ((Buffer(REQUEST, 23), USUAL[1]), "its request has 23 bytes"),
        ((USUAL[0], Buffer(ANSWER, 9, WRITE)), "it left 9 bytes for the response"),
        ((USUAL[0],), "it left 0 bytes for the response"),
        ((USUAL[1],), "its request has 0 bytes"),
        ((Buffer(TABLE, 32, INDIRECT),), "indirect descriptor, which was not negotiated"),
    ],
)
def test_buffers_no_driver_may_offer(
    bench: Bench, front_end: FrontEnd, kind: str, buffers: tuple[Buffer, ...], meaning: str
) -> None:
    driver = started(front_end, kind)
    assert ask(driver, UNPLUG_ALL, buffers=buffers) is None
    assert_broken(bench, front_end, meaning)
    assert_repaired(bench, front_end, kind)


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    ("pointer", "table", "meaning"),
    [
        (Buffer(TABLE, 0, INDIRECT), USUAL, "of 0 bytes"),
        (Buffer(TABLE, 33, INDIRECT), USUAL, "of 33 bytes"),
        (Buffer(RAM_SIZE - 16, 32, INDIRECT), USUAL, "not the guest's memory"),
        (Buffer(NO_MEMORY, 32, INDIRECT), USUAL, "not the guest's memory"),
        (Buffer((1 << 64) - 16, 32, INDIRECT), USUAL, "not the guest's memory"),
        (Buffer(TABLE, 0xFFFF_FFF0, INDIRECT), USUAL, "not the guest's memory"),
        (Buffer(TABLE, 32, INDIRECT), (Buffer(TABLE, 32, INDIRECT), USUAL[1]), "within a table"),
        (Buffer(TABLE, 32, INDIRECT), (USUAL[0], Buffer(TABLE, 32, INDIRECT)), "within a table"),
        (Buffer(TABLE, 32, INDIRECT), (USUAL[0], Buffer(NO_MEMORY, 10, WRITE)), "not the guest's memory"),
        (Buffer(TABLE, 16 * (QUEUE_SIZE + 1), INDIRECT), (USUAL[0],) * (QUEUE_SIZE + 1), "buffers, or loops"),
    ],
)
def test_tables_no_driver_may_offer(
    bench: Bench, front_end: FrontEnd, kind: str, pointer: Buffer, table: tuple[Buffer, ...], meaning: str
) -> None:
    driver = started(front_end, kind, INDIRECT_FEATURE)
    write_table(front_end, kind, table)
    assert ask(driver, UNPLUG_ALL, buffers=[pointer]) is None
    assert_broken(bench, front_end, meaning)
    assert_repaired(bench, front_end, kind)


@pytest.mark.parametrize(
    "table",
    [(Buffer(REQUEST, 24, next=0), USUAL[1]), (Buffer(REQUEST, 24, next=2), USUAL[1])],
    ids=["loop", "past the end"],
)
def test_a_table_that_leads_astray(bench: Bench, front_end: FrontEnd, table: tuple[Buffer, ...]) -> None:
    driver = started(front_end, "split", INDIRECT_FEATURE)
    write_table(front_end, "split", table)
    assert ask(driver, UNPLUG_ALL, buffers=[Buffer(TABLE, 32, INDIRECT)]) is None
    assert_broken(bench, front_end, "loops" if table[0].next == 0 else "descriptor 2 of 2")


@pytest.mark.parametrize("follows", [0, 1, QUEUE_SIZE, 0xFFFF])
def test_a_chain_that_leads_astray(bench: Bench, front_end: FrontEnd, follows: int) -> None:
    driver = started(front_end, "split")
    assert ask(driver, UNPLUG_ALL, buffers=[Buffer(REQUEST, 24, next=follows), USUAL[1]]) == (
        ACK if follows == 1 else None
    )
    if follows != 1:
        assert_broken(bench, front_end, "loops" if follows == 0 else f"descriptor {follows} of {QUEUE_SIZE}")
        assert_repaired(bench, front_end, "split")


def test_an_indirect_descriptor_may_end_a_chain_of_others(front_end: FrontEnd) -> None:
    driver = started(front_end, "split", INDIRECT_FEATURE)
    write_table(front_end, "split", USUAL[1:])
    assert ask(driver, UNPLUG_ALL, buffers=[USUAL[0], Buffer(TABLE, 16, INDIRECT)]) == ACK


def test_no_descriptor_follows_an_indirect_one(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split", INDIRECT_FEATURE)
    write_table(front_end, "split", USUAL)
    assert ask(driver, UNPLUG_ALL, buffers=[Buffer(TABLE, 32, INDIRECT), USUAL[1]]) is None
    assert_broken(bench, front_end, "with one that follows it")


@pytest.mark.parametrize(
    ("head", "steps", "meaning"),
    [
        (QUEUE_SIZE, 1, f"descriptor {QUEUE_SIZE} of {QUEUE_SIZE}"),
        (0xFFFF, 1, f"descriptor 65535 of {QUEUE_SIZE}"),
        (0, QUEUE_SIZE + 1, f"{QUEUE_SIZE + 1} chains available"),
        (0, -1, "65535 chains available"),
    ],
)
def test_a_ring_that_runs_ahead_or_backwards(
    bench: Bench, front_end: FrontEnd, head: int, steps: int, meaning: str
) -> None:
    driver = started(front_end, "split")
    assert isinstance(driver, SplitDriver)
    driver.describe(USUAL)
    driver.publish(head, steps)
    front_end.notify()
    assert_broken(bench, front_end, meaning)
    assert_repaired(bench, front_end, "split")


def test_a_packed_chain_without_an_end(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "packed")
    for index in range(QUEUE_SIZE):
        struct.pack_into("<QIHH", front_end.ram.bytes, 16 * index, REQUEST, 24, 0, 0x80 | 1)
    front_end.notify()
    assert_broken(bench, front_end, "a chain has no end")
    assert_repaired(bench, front_end, "packed")


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    ("area", "address"),
    [
        (area, address)
        for area in ("desc_user_addr", "avail_user_addr", "used_user_addr")
        for address in (
            0,
            RAM_USER_ADDRESS + RAM_SIZE,
            RAM_USER_ADDRESS + RAM_SIZE - 16,
            RAM_USER_ADDRESS + 1,
            (1 << 64) - 16,
        )
        if not (area != "desc_user_addr" and address == RAM_USER_ADDRESS + RAM_SIZE - 16)
    ],
)
def test_a_ring_outside_the_guests_memory(
    bench: Bench, front_end: FrontEnd, kind: str, area: str, address: int
) -> None:
    driver = started(front_end, kind)
    assert ask(driver, UNPLUG_ALL) == ACK
    front_end.called()
    wrong = ring_address()
    setattr(wrong, area, address)
    front_end.send(Request.SET_VRING_ADDR, bytes(wrong))
    assert_broken(bench, front_end, "is at" if address % 16 == 1 and kind == "split" else "")
    assert_repaired(bench, front_end, kind)


def test_memory_taken_from_under_a_ring(bench: Bench, front_end: FrontEnd) -> None:
    started(front_end, "split")
    front_end.share(front_end.regions()[1], fds=[front_end.region.fd])
    assert_broken(bench, front_end, "not the guest's memory")
    assert_repaired(bench, front_end, "split")


def test_blocks_outlive_a_driver_that_breaks_the_ring(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 4) == ACK
    front_end.region.bytes[:5] = b"guest"
    assert ask(driver, UNPLUG_ALL, buffers=[Buffer(NO_MEMORY, 24)]) is None
    assert ask(restarted(front_end, "split"), RequestType.STATE, REGION_ADDRESS, 4) == ACK
    assert front_end.region.bytes[:5] == b"guest"
    assert bench.device.plugged_size == 4 * (2 << 20)


def test_a_broken_ring_is_repaired_by_reset_device_too(bench: Bench, front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    assert ask(driver, UNPLUG_ALL, buffers=[Buffer(NO_MEMORY, 24)]) is None
    front_end.send(Request.RESET_DEVICE)
    assert not front_end.number(Request.GET_STATUS) & NEEDS_RESET
    assert not bench.device.broken


@pytest.mark.parametrize("buffer", [Buffer(NO_MEMORY, 24), Buffer(REQUEST, 23)], ids=["ring", "request"])
def test_a_broken_ring_is_repaired_by_an_end_and_a_start(front_end: FrontEnd, buffer: Buffer) -> None:
    """All that QEMU tells of a guest that resets its device."""
    driver = started(front_end, "split")
    assert ask(driver, UNPLUG_ALL, buffers=[buffer, USUAL[1]]) is None
    front_end.ask(Request.GET_VRING_BASE, state(0))
    front_end.ram.bytes[:TABLE] = bytes(TABLE)
    front_end.start()
    assert ask(SplitDriver(front_end), UNPLUG_ALL) == ACK
    assert not front_end.number(Request.GET_STATUS) & NEEDS_RESET


def test_an_event_descriptor_that_is_none(bench: Bench, front_end: FrontEnd) -> None:
    """A pipe whose other end is closed is readable for ever."""
    driver = started(front_end, "split")
    reading, writing = os.pipe()
    os.close(writing)
    front_end.send(Request.SET_VRING_KICK, u64(0), [reading])
    os.close(reading)
    assert front_end.gone()
    assert "no eventfd" in bench.heard.last("disconnected")
    assert driver.used() is None


def test_features_without_which_the_device_would_do_harm(bench: Bench, front_end: FrontEnd) -> None:
    front_end.connect()
    assert not front_end.acknowledged(Request.SET_FEATURES, u64(FEATURES & ~2))
    front_end.start(FEATURES & ~2)
    assert "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE" in bench.heard.last("refused")
    assert not any(word.startswith("started") for word in bench.heard.words)
    assert not front_end.number(Request.GET_STATUS) & 8
    front_end.send(Request.GET_VRING_BASE, state(0))
    front_end.reply()
