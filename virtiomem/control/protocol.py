"""The messages of a control socket: one JSON object in a line each way. docs/control.md describes them."""

from __future__ import annotations

import json
from typing import BinaryIO

LARGEST_REQUEST = 64 << 10
"""Bytes of a line. The connection of a client that sends a longer one is closed."""


class ProtocolError(ValueError):
    """A message is not what the protocol says; the text says why in a sentence."""


def read_object(stream: BinaryIO, largest: int = -1) -> dict[str, object] | None:
    """Read the next object; None at the end.

    Raises ProtocolError for a line that is no object, or is longer than largest bytes (-1: no limit).
    """
    line = stream.readline(largest)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise ProtocolError("the line does not end, or is too long")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("not a JSON object")
    return value


def line_of(value: dict[str, object]) -> bytes:
    """value as a line of the protocol."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def integer(request: dict[str, object], key: str, default: int | None = None) -> int:
    """The whole number that request has as key (default: as given). Raises ProtocolError if it is none."""
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError(f"{key} must be a whole number")
    return value


def seconds(request: dict[str, object], key: str, largest: float) -> float:
    """The seconds that request has as key, at most largest, and 0 without it. Raises ProtocolError if it has others."""
    value = request.get(key, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ProtocolError(f"{key} must be seconds")
    return min(float(value), largest)
