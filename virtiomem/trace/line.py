"""Line: a line of a trace, whose fields are checked when they are asked for."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Final

from pyvfio.errors import InvalidArgument

_LARGEST: Final = (1 << 64) - 1


class TraceError(InvalidArgument):
    """A trace holds a line that it may not; the message has the line's number."""


class Line:
    """A line of a trace. op: what it asks; the other fields are its arguments.

    A method that returns a field raises TraceError if the line has none of that name and kind.
    """

    def __init__(self, fields: Mapping[str, object], number: int = 1) -> None:
        """fields: the JSON object. number: which line it is, counted from 1."""
        self._fields = fields
        self._number = number
        self.op = fields.get("op")

    @classmethod
    def parse(cls, text: str, number: int) -> Line:
        """Read a line from text. Raises TraceError if it is no JSON object."""
        try:
            fields: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _error(number, f"not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise _error(number, "not a JSON object")
        return cls(fields, number)

    def integer(self, key: str, default: int | None = None, *, largest: int = _LARGEST) -> int:
        """The field key, a number from 0 to largest; default if the line has no such field."""
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            raise self.error(f"{key} must be a number from 0 to {largest:#_x}, not {json.dumps(value)}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """The field key, a number; None if the line has no such field."""
        return self.integer(key) if self._fields.get(key) is not None else None

    def boolean(self, key: str) -> bool:
        """The field key, true or false."""
        value = self._fields.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {json.dumps(value)}")
        return value

    def octets(self, key: str) -> bytes:
        """The bytes that the field key has as hexadecimal digits."""
        value = self._fields.get(key)
        try:
            return bytes.fromhex(value if isinstance(value, str) else "?")
        except ValueError:
            raise self.error(f"{key} must be hexadecimal digits, not {json.dumps(value)}") from None

    def error(self, meaning: str) -> TraceError:
        """A TraceError about this line."""
        return _error(self._number, meaning)


def _error(number: int, meaning: str) -> TraceError:
    return TraceError(errno.EINVAL, f"replay line {number}", meaning=meaning)
