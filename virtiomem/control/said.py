"""Said: an object that the other end of a control socket has sent, whose fields are checked when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pyvfio.texts import printable

_LARGEST = (1 << 64) - 1


class Said:
    """An object of JSON. A method that returns a field raises ValueError if there is none of that name and kind.

    Texts are as they may be shown on a terminal.
    """

    def __init__(self, data: object) -> None:
        """Raises ValueError for what is no object."""
        if not isinstance(data, Mapping):
            raise ValueError("it is no object")
        self._data = data

    def number(self, key: str) -> int:
        """A whole number of 64 bits that is not negative."""
        value = self._data.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise ValueError(f"{key} is no number of 64 bits")
        return value

    def number_or_none(self, key: str) -> int | None:
        """As number(); None for null."""
        return None if key in self._data and self._data[key] is None else self.number(key)

    def text(self, key: str) -> str:
        """A text."""
        return _text(key, self._data.get(key))

    def text_or_none(self, key: str) -> str | None:
        """A text; None for null."""
        return None if key in self._data and self._data[key] is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(_text(key, value) for value in self._list(key))

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._data.get(key)
        if not isinstance(value, bool):
            raise ValueError(f"{key} is neither true nor false")
        return value

    def objects(self, key: str) -> list[Self]:
        """A list of objects."""
        return [type(self)(value) for value in self._list(key)]

    def _list(self, key: str) -> list[object]:
        value = self._data.get(key)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key} is no list")
        return list(value)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return printable(value)
