"""Ranges: what a client has told of its memory, none of which overlaps another."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from pyvfio.vfio_user.guest_range import GuestRange


class Ranges:
    """Ranges by their addresses."""

    def __init__(self) -> None:
        self._addresses: list[int] = []
        self._parts: dict[int, GuestRange] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, part: GuestRange) -> bool:
        return self._parts.get(part.address) == part

    def __iter__(self) -> Iterator[GuestRange]:
        """Ascending."""
        return iter([self._parts[address] for address in self._addresses])

    def add(self, part: GuestRange) -> None:
        """Take in a range that overlaps none."""
        insort(self._addresses, part.address)
        self._parts[part.address] = part

    def remove(self, address: int) -> None:
        """Take out the range at an address, if there is one."""
        if self._parts.pop(address, None) is not None:
            del self._addresses[bisect_left(self._addresses, address)]

    def touching(self, address: int, size: int) -> list[GuestRange]:
        """The ranges that have an address in common with size bytes from address on, ascending."""
        first = bisect_right(self._addresses, address) - 1
        if first < 0 or self._parts[self._addresses[first]].end <= address:
            first += 1
        last = bisect_left(self._addresses, address + size)
        return [self._parts[each] for each in self._addresses[first:last]]
