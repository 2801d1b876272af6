"""records: frozen dataclasses by the ten thousand, without a call of Python's for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import TypeVar

_Record = TypeVar("_Record")


def records(kind: type[_Record], **columns: Sequence[object]) -> tuple[_Record, ...]:
    """An object of kind for each row of columns, which are of one length: as kind(**row) for each.

    kind: a dataclass with slots that does nothing of its own when one is made. columns: every field of it, by name.
    """
    rows = max(map(len, columns.values()))
    made: tuple[_Record, ...] = tuple(map(kind.__new__, repeat(kind, rows)))
    for name, values in columns.items():
        # What the __init__ of a frozen dataclass does, from a loop in C.
        deque(map(vars(kind)[name].__set__, made, values), maxlen=0)
    return made
