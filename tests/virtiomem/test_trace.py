"""Replay of traces: one JSON object a line in, one step a line out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import pytest

from pyvfio.errors import InvalidArgument, VfioError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, MIB
from virtiomem import trace
from virtiomem.device import BlockState, Request, RequestType, Response, ResponseType

ACK, NACK, BUSY, ERROR = (bytes(Response(kind)).hex() for kind in ResponseType)
INIT = {
    "op": "init",
    "block_size": BLOCK,
    "addr": ADDRESS,
    "region_size": 64 * MIB,
    "requested_size": 32 * MIB,
    "mappers": 2,
}


def request(kind: RequestType, block: int = 0, count: int = 0) -> dict[str, object]:
    return {"op": "request", "hex": bytes(Request(kind, ADDRESS + block * BLOCK, count)).hex()}


def play(*lines: Mapping[str, object], **init: object) -> list[trace.Step]:
    return list(trace.replay(json.dumps(line) for line in ({**INIT, **init}, *lines)))


def test_a_line_for_each_line() -> None:
    init, plug, unplug = play(request(RequestType.PLUG, 0, 2), request(RequestType.UNPLUG, 0, 2))
    assert init == {"response": None, "broken": False, "error": None, "config": init["config"], "dma": []}
    numbers = [int.from_bytes(bytes.fromhex(init["config"])[at : at + 8], "little") for at in range(0, 56, 8)]
    assert numbers == [BLOCK, 0, ADDRESS, 64 * MIB, 64 * MIB, 0, 32 * MIB]
    assert plug["response"] == unplug["response"] == ACK
    assert plug["dma"] == [[mapper, "map", ADDRESS + block * BLOCK, BLOCK] for mapper in (0, 1) for block in (0, 1)]
    assert unplug["dma"] == [[mapper, "unmap", ADDRESS, 2 * BLOCK] for mapper in (1, 0)]
    assert json.loads(json.dumps(plug)) == plug


def test_a_refused_map_carries_its_errno_and_is_undone() -> None:
    plug = request(RequestType.PLUG, 0, 2)
    _, refuse, refused, again = play({"op": "refuse_map", "mapper": 1, "nth": 1, "errno": 12}, plug, plug)
    assert refuse["dma"] == []
    assert refused["response"] == BUSY
    assert refused["dma"] == [
        [0, "map", ADDRESS, BLOCK],
        [0, "map", ADDRESS + BLOCK, BLOCK],
        [1, "map", ADDRESS, BLOCK],
        [1, "map", ADDRESS + BLOCK, BLOCK, 12],
        [1, "unmap", ADDRESS, BLOCK],
        [0, "unmap", ADDRESS, 2 * BLOCK],
    ]
    assert again["response"] == ACK


def test_a_refusal_is_for_the_next_request_only() -> None:
    state, plug = request(RequestType.STATE, 0, 1), request(RequestType.PLUG, 0, 2)
    steps = play({"op": "refuse_map", "mapper": 0, "nth": 0, "errno": 28}, state, plug)
    assert steps[-1]["response"] == ACK


def test_what_is_refused_does_not_end_the_replay() -> None:
    plug = request(RequestType.PLUG, 0, 1)
    steps = play(
        plug,
        {"op": "resize", "requested_size": 65 * MIB},
        {"op": "request", "hex": "09"},
        plug,
        {"op": "device_reset"},
        {"op": "migrating", "on": True},
        request(RequestType.UNPLUG, 0, 1),
        {"op": "system_reset"},
        {"op": "migrating", "on": False},
        {"op": "system_reset"},
        {**plug, "response_size": 9},
    )
    assert [(step["response"], step["broken"], step["error"] is not None) for step in steps] == [
        (None, False, False),
        (ACK, False, False),
        (None, False, True),
        (None, True, True),
        (None, True, True),
        (None, False, False),
        (None, False, False),
        (BUSY, False, False),
        (None, False, True),
        (None, False, False),
        (None, False, False),
        (None, True, True),
    ]
    assert steps[10]["dma"] == [[mapper, "unmap", ADDRESS, 64 * MIB] for mapper in (1, 0)]


@pytest.mark.parametrize("features", [0, 2, 7, 2 | 1 << 32])
def test_features_as_negotiated(features: int) -> None:
    (step,) = play(features=features, node_id=3)
    assert bytes.fromhex(step["config"])[8] == 3


@pytest.mark.thorough
def test_the_last_of_65536_blocks_is_refused() -> None:
    """1 TiB in 16 MiB blocks, one more than a container takes; everything else stays."""
    tebibyte = {"region_size": 1 << 40, "requested_size": 1 << 40, "block_size": 16 * MIB, "mappers": 1}

    def asked(kind: RequestType, block: int, count: int) -> dict[str, object]:
        return {"op": "request", "hex": bytes(Request(kind, ADDRESS + block * 16 * MIB, count)).hex()}

    last = ADDRESS + 65535 * 16 * MIB
    _, plug, refused, mixed, unplug, plug_last, unplug_all = play(
        asked(RequestType.PLUG, 0, 65535),
        asked(RequestType.PLUG, 65535, 1),
        asked(RequestType.STATE, 65000, 536),
        asked(RequestType.UNPLUG, 7, 1),
        asked(RequestType.PLUG, 65535, 1),
        asked(RequestType.UNPLUG_ALL, 0, 0),
        **tebibyte,
    )
    assert {step["response"] for step in (plug, unplug, plug_last, unplug_all)} == {ACK}
    assert [len(step["dma"]) for step in (plug, unplug, unplug_all)] == [65535, 1, 1]
    assert refused["response"] == BUSY
    assert refused["dma"] == []
    assert mixed["response"] == bytes(Response(ResponseType.ACK, BlockState.MIXED)).hex()
    assert plug_last["dma"] == [[0, "map", last, 16 * MIB]]


@pytest.mark.parametrize("mapper", range(3))
@pytest.mark.parametrize("nth", range(3))
def test_whichever_map_is_refused_all_are_taken_back(mapper: int, nth: int) -> None:
    refuse, plug = {"op": "refuse_map", "mapper": mapper, "nth": nth, "errno": 28}, request(RequestType.PLUG, 4, 3)
    _, _, refused, again = play(refuse, plug, plug, mappers=3)
    start, blocks = ADDRESS + 4 * BLOCK, [ADDRESS + block * BLOCK for block in (4, 5, 6)]
    expected: list[list[int | str]] = [[earlier, "map", iova, BLOCK] for earlier in range(mapper) for iova in blocks]
    expected += [[mapper, "map", iova, BLOCK] for iova in blocks[:nth]]
    expected += [[mapper, "map", blocks[nth], BLOCK, 28]]
    expected += [[mapper, "unmap", start, nth * BLOCK]] if nth else []
    expected += [[earlier, "unmap", start, 3 * BLOCK] for earlier in reversed(range(mapper))]
    assert refused["response"] == BUSY
    assert refused["dma"] == expected
    assert again["response"] == ACK
    assert len(again["dma"]) == 9


def test_two_refusals_in_one_request() -> None:
    """The first to come ends the request, and both are forgotten with it."""
    plug = request(RequestType.PLUG, 0, 2)
    refusals: list[dict[str, object]] = [
        {"op": "refuse_map", "mapper": mapper, "nth": 0, "errno": 12} for mapper in (1, 0)
    ]
    *_, refused, again = play(*refusals, plug, plug)
    assert refused["dma"] == [[0, "map", ADDRESS, BLOCK, 12]]
    assert again["response"] == ACK


@pytest.mark.parametrize("code", [1, 11, 14, 16, 17, 19, 28, 110, 4095])
def test_any_errno_makes_it_busy(code: int) -> None:
    _, _, refused = play({"op": "refuse_map", "mapper": 0, "nth": 0, "errno": code}, request(RequestType.PLUG, 0, 1))
    assert (refused["response"], refused["broken"], refused["error"]) == (BUSY, False, None)
    assert refused["dma"] == [[0, "map", ADDRESS, BLOCK, code]]


@pytest.mark.parametrize("mappers", [0, 1, 40])
def test_any_number_of_mappers(mappers: int) -> None:
    plug, unplug = play(request(RequestType.PLUG, 0, 2), request(RequestType.UNPLUG, 0, 1), mappers=mappers)[1:]
    assert [call[0] for call in plug["dma"]] == [mapper for mapper in range(mappers) for _ in range(2)]
    assert [call[0] for call in unplug["dma"]] == list(reversed(range(mappers)))


def test_what_a_guest_may_send() -> None:
    """Upper case, junk in the padding, more than was asked for, and a buffer with more room than the answer needs."""
    plug = bytes(Request(RequestType.PLUG, ADDRESS, 1))
    junk = plug[:2] + b"\xaa" * 6 + plug[8:18] + b"\xbb" * 6 + b"surplus"
    steps = play({"op": "request", "hex": junk.hex().upper(), "response_size": 4096, "comment": "no field of a trace"})
    assert steps[-1]["response"] == ACK


@pytest.mark.parametrize(
    "line",
    [
        {"hex": ""},
        {"hex": "00" * 23},
        {"hex": "00" * 24, "response_size": 9},
        {"hex": "00" * 24, "response_size": 0},
        {"hex": "04" + "00" * 23},
        {"hex": "0001" + "00" * 22},
    ],
    ids=str,
)
def test_what_has_no_answer_breaks_the_device_until_a_reset(line: dict[str, object]) -> None:
    state, reset = request(RequestType.STATE, 0, 1), {"op": "device_reset"}
    plug = request(RequestType.PLUG, 0, 1)
    steps = play(plug, {"op": "request", **line}, state, {"op": "resize", "requested_size": 0}, reset, state)
    assert [(step["response"] is None, step["broken"]) for step in steps[1:]] == [
        *((False, False), (True, True), (True, True), (True, True), (True, False), (False, False))
    ]
    assert [step["error"] is None for step in steps[1:]] == [True, False, False, True, True, True]
    assert steps[-1]["response"] == bytes(Response(ResponseType.ACK, BlockState.PLUGGED)).hex()


def test_many_requests_leave_nothing_behind() -> None:
    blocks = [block for _ in range(40) for block in range(32)]
    lines = [request(kind, block, 1) for block in blocks for kind in (RequestType.PLUG, RequestType.UNPLUG)]
    steps = play(*lines)
    assert len(steps) == 1 + 2 * len(blocks)
    assert {step["response"] for step in steps[1:]} == {ACK}
    assert {len(step["dma"]) for step in steps[1:]} == {2}


def test_a_replay_that_is_given_up_closes_its_device() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    steps = trace.replay(json.dumps(line) for line in (INIT, request(RequestType.PLUG, 0, 1)))
    next(steps)
    next(steps)
    steps.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("lines", [[], [""], ["", "  \n"]])
def test_nothing_to_play(lines: list[str]) -> None:
    assert list(trace.replay(lines)) == []


def test_blank_lines_are_none() -> None:
    steps = list(trace.replay(["\n", json.dumps(INIT), "", '{"op": "system_reset"}\r\n', " "]))
    assert [step["error"] for step in steps] == [None, None]


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("9" * 10_000, "line 2: not JSON"),
        ('{"op": "resize", "requested_size": NaN}', "requested_size must be a number"),
        ('{"op": "resize", "requested_size": -1}', "requested_size must be a number"),
        ('{"op": "resize", "requested_size": 18446744073709551616}', "requested_size must be a number"),
        ('{"op": "resize", "requested_size": true}', "requested_size must be a number"),
        ('{"op": "resize"}', "requested_size must be a number"),
        ('{"op": "request", "hex": "0"}', "hex must be"),
        ('{"op": "request", "hex": "\u0661\u0661"}', "hex must be"),
        ('{"op": "request", "hex": 17}', "hex must be"),
        ('{"op": "request", "hex": "00", "response_size": "10"}', "response_size must be a number"),
        ('{"op": "request", "hex": "00", "response_size": -1}', "response_size must be a number"),
        ('{"op": "refuse_map", "mapper": 0, "nth": 0, "errno": 0}', "errno 0 is no failure"),
        ('{"op": "refuse_map", "mapper": 0, "nth": 0, "errno": 4096}', "errno must be a number"),
        ('{"op": "refuse_map", "mapper": 0, "nth": -1, "errno": 12}', "nth must be a number"),
        ('{"op": null}', "op null does not exist"),
        ('{"op": {"op": []}}', "does not exist"),
        ('{"op": "\ud800"}', "does not exist"),
        ("{}", "op null does not exist"),
        (json.dumps(INIT), "the first line"),
        ("[]", "line 2: not a JSON object"),
        ('{"op": "explode"}', 'op "explode" does not exist'),
        ('{"op": "request"}', "hex must be"),
        ('{"op": "request", "hex": "0x"}', "hex must be"),
        ('{"op": "resize", "requested_size": "4M"}', "requested_size must be a number"),
        ('{"op": "migrating", "on": 1}', "on must be true or false"),
        ('{"op": "refuse_map", "mapper": 2, "nth": 0, "errno": 12}', "mapper 2 does not exist"),
    ],
)
def test_lines_that_are_no_trace(line: str, meaning: str) -> None:
    with pytest.raises(trace.TraceError, match=meaning):
        list(trace.replay([json.dumps(INIT), line]))


def test_the_first_line_makes_the_device() -> None:
    with pytest.raises(trace.TraceError, match="first line"):
        list(trace.replay(['{"op": "system_reset"}']))
    with pytest.raises(InvalidArgument, match="would fit"):
        play(requested_size=65 * MIB)
    with pytest.raises(trace.TraceError, match="mappers must be a number from 0 to 0x40"):
        play(mappers=65)


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_size": 3 * MIB},
        {"block_size": None},
        {"addr": ADDRESS + 1},
        {"addr": (1 << 64) - BLOCK},
        {"region_size": 0},
        {"region_size": 63 * MIB},
        {"region_size": 1 << 62},
        {"region_size": "64M"},
        {"node_id": 0x10000},
        {"features": 1 << 3},
        {"mappers": -1},
        {"mappers": 1.0},
    ],
    ids=str,
)
def test_a_device_that_cannot_be(wrong: dict[str, object]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(VfioError):
        play(**wrong)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_in_words() -> None:
    steps = play(
        request(RequestType.PLUG, 0, 2),
        {"op": "resize", "requested_size": 1},
        {"op": "request", "hex": ""},
        {"op": "device_reset"},
    )
    words = [trace.describe(step) for step in steps]
    assert words[1] == "ACK, plugged 4 MiB, 4 maps"
    assert "would fit" in words[2]
    assert words[3].startswith("no answer")
    assert words[4] == "done, plugged 4 MiB"
