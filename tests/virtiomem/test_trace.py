"""Replay of traces: one JSON object a line in, one step a line out."""

from __future__ import annotations

import json

import pytest

from pyvfio.errors import InvalidArgument
from tests.virtiomem.fakes import ADDRESS, BLOCK, MIB
from virtiomem import trace
from virtiomem.requests import Request, RequestType, Response, ResponseType

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


def play(*lines: dict[str, object], **init: object) -> list[trace.Step]:
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


def test_a_region_of_any_size() -> None:
    steps = play(
        request(RequestType.PLUG, 0, 65535),
        request(RequestType.UNPLUG_ALL),
        region_size=1 << 40,
        requested_size=1 << 40,
        block_size=BLOCK,
        mappers=1,
    )
    assert [step["response"] for step in steps] == [None, ACK, ACK]
    assert [len(step["dma"]) for step in steps] == [0, 65535, 1]


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("{", "line 2: not JSON"),
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
