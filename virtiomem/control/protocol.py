"""What goes over a control socket: one JSON object in a line, one in a line back. docs/control.md describes it."""

from __future__ import annotations

import json
from typing import BinaryIO

LARGEST_REQUEST = 64 << 10
"""Bytes. A client that sends a longer line is sent away."""


class ProtocolError(ValueError):
    """Not what the protocol says; one sentence."""


def read_object(stream: BinaryIO, largest: int = -1) -> dict[str, object] | None:
    """The next object; None at the end. Raises ProtocolError for a line that is none, or longer than largest."""
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
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def integer(request: dict[str, object], key: str, default: int | None = None) -> int:
    """Raises ProtocolError for what is no whole number."""
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError(f"{key} must be a whole number")
    return value


def seconds(request: dict[str, object], key: str, largest: float) -> float:
    """At most largest, and 0 by default. Raises ProtocolError for what is no number of seconds."""
    value = request.get(key, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ProtocolError(f"{key} must be seconds")
    return min(float(value), largest)
