"""Intervals: things that lie at addresses, found by where they are."""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

T = TypeVar("T")


class Intervals(Generic[T]):
    """Items with a start and a size, which may overlap. A search looks back as far as the largest reaches, so it is
    quick while sizes are alike."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        # None where one has been removed: taking each out of a long list takes longer than all the rest.
        self._items: list[T | None] = []
        self._removed = 0
        self._largest = 0

    def add(self, start: int, size: int, item: T) -> None:
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == start and self._items[index] is None:
            self._items[index] = item
            self._removed -= 1
        else:
            self._starts.insert(index, start)
            self._items.insert(index, item)
        self._largest = max(self._largest, size)

    def remove(self, start: int, item: T) -> None:
        """Take out an item that was added at start."""
        index = bisect_left(self._starts, start)
        while self._items[index] is not item:
            index += 1
        self._items[index] = None
        self._removed += 1
        if self._removed > len(self._items) // 2:
            kept = [(place, each) for place, each in zip(self._starts, self._items, strict=True) if each is not None]
            self._starts, self._items = [place for place, _ in kept], [each for _, each in kept]
            self._removed = 0

    def near(self, start: int, size: int) -> list[T]:
        """All that overlap the range, and maybe some that do not."""
        first = bisect_left(self._starts, start - self._largest)
        last = bisect_left(self._starts, start + size)
        return [item for item in self._items[first:last] if item is not None]
