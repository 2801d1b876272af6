"""SpanIndex: what touches a span of numbers, found without a walk through all that there is."""

from __future__ import annotations

from collections.abc import Iterable


class SpanIndex:
    """Keys, each with a span. Spans may overlap.

    Each key is filed under the one or two units that its span touches, units being as large as the span. So a large
    span costs what a small one costs, and a question costs what lies near, and a look at each size that there is.
    """

    def __init__(self, smallest: int = 1) -> None:
        """smallest: the smallest unit, a power of two."""
        self._smallest = (smallest - 1).bit_length()
        # The keys of each unit, by the number of bits that a unit has.
        self._units: dict[int, dict[int, set[int]]] = {}

    def __bool__(self) -> bool:
        """Whether there are any keys."""
        return bool(self._units)

    def add(self, start: int, size: int, key: int) -> None:
        """File key under the span of size from start."""
        bits, touched = self._place(start, size)
        units = self._units.setdefault(bits, {})
        for unit in touched:
            units.setdefault(unit, set()).add(key)

    def remove(self, start: int, size: int, key: int) -> None:
        """Take out a key that was added with this span."""
        bits, touched = self._place(start, size)
        units = self._units[bits]
        for unit in touched:
            units[unit].discard(key)
            if not units[unit]:
                del units[unit]
        if not units:
            del self._units[bits]

    def near(self, start: int, size: int) -> set[int]:
        """The keys whose spans may have a number in common with this one. All that do are among them."""
        near: set[int] = set()
        for bits, units in self._units.items():
            first, end = start >> bits, (start + size - 1 >> bits) + 1
            touched: Iterable[int] = range(first, end)
            if len(units) < end - first:
                touched = [unit for unit in units if first <= unit < end]
            for unit in touched:
                near.update(units.get(unit, ()))
        return near

    def _place(self, start: int, size: int) -> tuple[int, range]:
        bits = max(self._smallest, (size - 1).bit_length())
        return bits, range(start >> bits, (start + size - 1 >> bits) + 1)
