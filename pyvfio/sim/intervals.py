"""Intervals: things that lie at addresses, found by where they are."""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

T = TypeVar("T")


class Intervals(Generic[T]):
    """Any may overlap any other. Quick while sizes are alike: a search looks back as far as the largest reaches."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._items: list[T] = []
        self._largest = 0

    def add(self, start: int, size: int, item: T) -> None:
        index = bisect_left(self._starts, start)
        self._starts.insert(index, start)
        self._items.insert(index, item)
        self._largest = max(self._largest, size)

    def remove(self, start: int, item: T) -> None:
        """item was added at start."""
        index = bisect_left(self._starts, start)
        while self._items[index] is not item:
            index += 1
        del self._starts[index], self._items[index]

    def near(self, start: int, size: int) -> list[T]:
        """All that overlap the range, and maybe some that do not."""
        first = bisect_left(self._starts, start - self._largest)
        return self._items[first : bisect_left(self._starts, start + size)]
