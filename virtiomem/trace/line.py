"""Line: one line of a trace."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Final

from pyvfio.errors import InvalidArgument

_LARGEST: Final = (1 << 64) - 1


class TraceError(InvalidArgument):
    """A line is not what a trace may hold; the message has its number."""


class Line:
    """An object whose fields are checked when they are asked for. Raises TraceError, as its methods do."""

    def __init__(self, fields: Mapping[str, object], number: int = 1) -> None:
        """number: which line it is, counted from 1."""
        self._fields = fields
        self._number = number
        self.op = fields.get("op")

    @classmethod
    def parse(cls, text: str, number: int) -> Line:
        try:
            fields: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _error(number, f"not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise _error(number, "not a JSON object")
        return cls(fields, number)

    def integer(self, key: str, default: int | None = None, *, largest: int = _LARGEST) -> int:
        """From 0 to largest."""
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            raise self.error(f"{key} must be a number from 0 to {largest:#_x}, not {json.dumps(value)}")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if self._fields.get(key) is not None else None

    def boolean(self, key: str) -> bool:
        value = self._fields.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {json.dumps(value)}")
        return value

    def octets(self, key: str) -> bytes:
        value = self._fields.get(key)
        try:
            return bytes.fromhex(value if isinstance(value, str) else "?")
        except ValueError:
            raise self.error(f"{key} must be hexadecimal digits, not {json.dumps(value)}") from None

    def error(self, meaning: str) -> TraceError:
        return _error(self._number, meaning)


def _error(number: int, meaning: str) -> TraceError:
    return TraceError(errno.EINVAL, f"replay line {number}", meaning=meaning)
