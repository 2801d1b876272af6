"""What a manager of discards and those who take part in it refuse."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from pyvfio.errors import VfioError
from virtiomem.discard.section import Section

_NAMED: Final = 3
"""How many of many a message names."""


class DiscardRefused(VfioError):
    """Another user of the memory excludes this one; the message names that user."""


class ListenerDiverged(VfioError):
    """A listener failed, and could not undo what it had done by then.

    changed: the sections that did change: populated by a populate that failed, discarded by a discard that failed.
    """

    def __init__(
        self,
        operation: str,
        meaning: str,
        changed: Sequence[Section] = (),
        advice: str = "The device repairs it before its next request, or call repair()",
    ) -> None:
        super().__init__(errno.EIO, operation, meaning=meaning, advice=advice)
        self.changed = tuple(changed)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.operation, self.meaning, self.changed, self.advice))


def few(items: Iterable[object], separator: str = ", ") -> str:
    """The first items in words, and how many there are more: a message stays short, however much has failed."""
    items = list(items)
    more = [f"and {len(items) - _NAMED} more"] if len(items) > _NAMED else []
    return separator.join([*map(str, items[:_NAMED]), *more])
