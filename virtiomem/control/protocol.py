"""The messages of a control socket: one JSON object in a line each way. docs/control.md describes them."""

from __future__ import annotations

import errno
import json
from typing import BinaryIO, Final

from pyvfio.errors import InvalidArgument
from pyvfio.texts import shortened

LONGEST_NAME = 64
"""Characters of a device's name."""
LARGEST_ANSWER = 64 << 20
"""Bytes of a line that a client takes."""
LARGEST_REQUEST = 64 << 10
"""Bytes of a line. The connection of a client that sends a longer one is closed."""


_LIMIT: Final = 1 << 64


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
    """The whole number that request has as key (default: as given). Raises ProtocolError if it is none of 64 bits."""
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError(f"{key} must be a whole number")
    if not -_LIMIT < value < _LIMIT:
        raise ProtocolError(f"{key} must be a whole number of 64 bits")
    return value


def seconds(request: dict[str, object], key: str, largest: float) -> float:
    """The seconds that request has as key, at most largest, and 0 without it. Raises ProtocolError if it has others."""
    value = request.get(key, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ProtocolError(f"{key} must be seconds")
    # Before it is made a float, which not every whole number can be.
    return float(min(value, largest))


def text(request: dict[str, object], key: str, default: str | None = None) -> str:
    """The text that request has as key (default: as given). Raises ProtocolError if it has none."""
    value = request.get(key, default)
    if not isinstance(value, str):
        raise ProtocolError(f"{key} must be a text")
    return value


def flag(request: dict[str, object], key: str) -> bool:
    """Whether request says true as key; without it, false. Raises ProtocolError for anything else."""
    value = request.get(key, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"{key} must be true or false")
    return value


def texts(request: dict[str, object], key: str) -> tuple[str, ...]:
    """The texts of the list that request has as key; none without it. Raises ProtocolError for anything else."""
    values = request.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ProtocolError(f"{key} must be a list of texts")
    return tuple(values)


def check_keys(request: dict[str, object], *known: str) -> None:
    """Raises ProtocolError if request says anything beside its command and these."""
    if unknown := [key for key in request if key not in ("command", *known)]:
        raise ProtocolError(f"{shortened(unknown[0])} is none of {', '.join(known) or 'its arguments: it has none'}")


def check_name(name: str) -> None:
    """Raises InvalidArgument unless name can be a device's: not too long, and printable wherever it is shown."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidArgument(
            errno.EINVAL,
            f"name {shortened(name)}",
            meaning=f"a name has from 1 to {LONGEST_NAME} characters, all of which can be printed",
        )
