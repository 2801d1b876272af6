"""The wire format of requests, responses and config."""

from __future__ import annotations

import pytest

from virtiomem.device import BlockState, Config, ProtocolViolation, Request, RequestType, Response, ResponseType

PLUG = bytes.fromhex("0000 000000000000 0000800001000000 0500 000000000000")


def test_request() -> None:
    request = Request(RequestType.PLUG, 0x1_0080_0000, 5)
    assert bytes(request) == PLUG
    assert Request.parse(PLUG, 10) == request


def test_padding_and_surplus_are_ignored() -> None:
    junk = bytearray(PLUG) + b"surplus"
    junk[2:8] = junk[18:24] = b"\xff" * 6
    assert Request.parse(bytes(junk), 64) == Request.parse(PLUG, 10)


@pytest.mark.parametrize(
    ("data", "response_size", "meaning"),
    [
        (PLUG[:23], 10, "23 bytes instead of 24"),
        (b"", 10, "0 bytes instead of 24"),
        (PLUG, 9, "9 bytes for the response instead of 10"),
        (b"\x04" + PLUG[1:], 10, "unknown type 4"),
        (b"\x00\xff" + PLUG[2:], 10, "unknown type 65280"),
    ],
)
def test_what_has_no_answer(data: bytes, response_size: int, meaning: str) -> None:
    with pytest.raises(ProtocolViolation, match=meaning):
        Request.parse(data, response_size)


def test_response() -> None:
    response = Response(ResponseType.ACK, BlockState.MIXED)
    assert bytes(response) == bytes.fromhex("0000 000000000000 0200")
    assert Response.parse(bytes(response)) == response
    assert bytes(Response(ResponseType.ERROR)) == bytes.fromhex("0300 000000000000 0000")


def test_config() -> None:
    config = Config(1 << 21, 3, 1 << 32, 1 << 30, 1 << 29, 1 << 22, 1 << 23)
    numbers = [1 << 21, 3, 1 << 32, 1 << 30, 1 << 29, 1 << 22, 1 << 23]
    assert bytes(config) == b"".join(number.to_bytes(8, "little") for number in numbers)
