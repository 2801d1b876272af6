"""A guest's requests through either kind of ring: answered, written back and told of."""

from __future__ import annotations

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
    PackedDriver,
    SplitDriver,
    ask,
    started,
    write_table,
)
from tests.support.vhost_user.front_end import (
    BLOCK,
    EVENT_IDX,
    QUEUE_SIZE,
    REGION_ADDRESS,
    Bench,
    FrontEnd,
)
from tests.support.vhost_user.front_end import INDIRECT as INDIRECT_FEATURE
from virtiomem import BlockState, RequestType, Response, ResponseType

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


@pytest.mark.parametrize("kind", DRIVERS)
def test_plug_use_and_unplug(bench: Bench, front_end: FrontEnd, kind: str) -> None:
    driver = started(front_end, kind)
    assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == Response(ACK)
    assert bench.device.plugged_size == 3 * BLOCK
    assert front_end.region.resident() == 3 * BLOCK
    front_end.region.bytes[BLOCK : BLOCK + 5] = b"guest"
    assert bench.memory.read(BLOCK, 5) == b"guest"
    assert ask(driver, STATE, REGION_ADDRESS, 2) == Response(ACK, BlockState.MIXED)
    assert ask(driver, UNPLUG, REGION_ADDRESS + BLOCK, 2) == Response(ACK)
    assert front_end.region.resident() == BLOCK
    assert front_end.region.bytes[BLOCK : BLOCK + 5] == bytes(5)
    assert ask(driver, UNPLUG_ALL) == Response(ACK)
    assert (bench.device.plugged_size, front_end.region.resident()) == (0, 0)


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("features", [0, EVENT_IDX, EVENT_IDX | INDIRECT_FEATURE])
def test_the_ring_goes_round(bench: Bench, front_end: FrontEnd, kind: str, features: int) -> None:
    driver = started(front_end, kind, features)
    for turn in range(5 * QUEUE_SIZE):
        assert ask(driver, (PLUG, UNPLUG)[turn % 2], REGION_ADDRESS, 1) == Response(ACK)
    assert len([word for word in bench.heard.words if word.startswith("broken")]) == 0


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    "buffers",
    [
        (Buffer(REQUEST, 1), Buffer(REQUEST + 1, 23), Buffer(ANSWER, 5, WRITE), Buffer(ANSWER + 5, 5, WRITE)),
        (Buffer(REQUEST, 4096), Buffer(ANSWER, 4096, WRITE)),
    ],
    ids=["pieces", "surplus"],
)
def test_buffers_may_be_cut_as_the_driver_likes(front_end: FrontEnd, kind: str, buffers: tuple[Buffer, ...]) -> None:
    driver = started(front_end, kind)
    assert ask(driver, PLUG, REGION_ADDRESS, 1, buffers) == Response(ACK)


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_table_of_descriptors(front_end: FrontEnd, kind: str) -> None:
    driver = started(front_end, kind, INDIRECT_FEATURE)
    write_table(front_end, kind, USUAL)
    for _ in range(2 * QUEUE_SIZE):
        assert ask(driver, UNPLUG_ALL, buffers=[Buffer(TABLE, 32, INDIRECT)]) == Response(ACK)


@pytest.mark.parametrize("kind", DRIVERS)
def test_what_was_offered_before_the_start_is_served(front_end: FrontEnd, kind: str) -> None:
    driver = PackedDriver(front_end) if kind == "packed" else SplitDriver(front_end)
    driver.offer(USUAL)
    started(front_end, kind)
    assert driver.used() is not None


@pytest.mark.parametrize("kind", DRIVERS)
def test_many_requests_for_one_kick(front_end: FrontEnd, kind: str) -> None:
    driver = started(front_end, kind)
    for _ in range(QUEUE_SIZE // 2):
        driver.offer(USUAL)
    front_end.notify()
    for _ in range(QUEUE_SIZE // 2):
        assert driver.used() is not None
    assert driver.used() is None


@pytest.mark.parametrize("kind", DRIVERS)
def test_another_back_end_goes_on_where_this_one_stopped(bench: Bench, front_end: FrontEnd, kind: str) -> None:
    driver = started(front_end, kind)
    for _ in range(QUEUE_SIZE + 1):
        assert ask(driver, UNPLUG_ALL) == Response(ACK)
    base = front_end.stop()
    features = int(bench.heard.last("started").split()[1], 16)
    front_end.start(features, base=base)
    assert ask(driver, UNPLUG_ALL) == Response(ACK)


def test_a_split_driver_may_not_want_calls(front_end: FrontEnd) -> None:
    driver = started(front_end, "split")
    assert isinstance(driver, SplitDriver)
    assert ask(driver, UNPLUG_ALL) == Response(ACK)
    assert front_end.called()
    driver.want_calls(None)
    assert ask(driver, UNPLUG_ALL) == Response(ACK)
    assert not front_end.called()


def test_a_split_driver_says_for_what_it_wants_calls(front_end: FrontEnd) -> None:
    driver = started(front_end, "split", EVENT_IDX)
    assert isinstance(driver, SplitDriver)
    driver.want_calls(1)
    calls = []
    for _ in range(3):
        assert ask(driver, UNPLUG_ALL) == Response(ACK)
        calls.append(front_end.called())
    assert calls == [False, True, False]
    assert driver.kick_event() == 3


@pytest.mark.parametrize(
    ("off_wrap", "flags", "calls"),
    [
        (0, 0, [True, True, True]),
        (0, 1, [False, False, False]),
        (0x8002, 2, [False, True, False]),
        (0x8000, 2, [True, False, False]),
        (0x0004, 2, [False, False, False]),
    ],
)
def test_a_packed_driver_says_for_what_it_wants_calls(
    front_end: FrontEnd, off_wrap: int, flags: int, calls: list[bool]
) -> None:
    driver = started(front_end, "packed", EVENT_IDX)
    assert isinstance(driver, PackedDriver)
    driver.want_calls(off_wrap, flags)
    heard = []
    for _ in calls:
        assert ask(driver, UNPLUG_ALL) == Response(ACK)
        heard.append(front_end.called())
    assert heard == calls
    assert driver.kick_event() == (0x8000 | 2 * len(calls), 2)


@pytest.mark.parametrize("kind", DRIVERS)
def test_answers_of_the_device(bench: Bench, front_end: FrontEnd, kind: str) -> None:
    driver = started(front_end, kind)
    bench.device.resize(2 * BLOCK)
    assert ask(driver, PLUG, REGION_ADDRESS + 1, 1) == Response(ERROR)
    assert ask(driver, PLUG, REGION_ADDRESS, 3) == Response(NACK)
    bench.device.migrating = True
    assert ask(driver, PLUG, REGION_ADDRESS, 2) == Response(BUSY)
    bench.device.migrating = False
    assert ask(driver, PLUG, REGION_ADDRESS, 2) == Response(ACK)
    assert front_end.config() == bytes(bench.device.config)
