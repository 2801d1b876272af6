"""IovaAllocator: device addresses for a program that does not choose them itself."""

from __future__ import annotations

import enum
import errno
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from pyvfio.dma.address_space import IovaRange
from pyvfio.errors import InvalidArgument, OutsideIovaRanges
from pyvfio.kernel import host_page_size


class Fit(enum.Enum):
    """Which of the holes that have room the allocator uses."""

    FIRST = "first"
    """The lowest one: addresses stay small."""
    BEST = "best"
    """The smallest one, and the lowest of those: large holes stay large."""


class IovaAllocator:
    """Gives out addresses from the iova_ranges of an address space, and takes them back. Addresses and sizes are bytes.

    It knows what it has given out, and not what is mapped: reserve() what others map. Not safe from several threads.
    Address 0 it gives out only if it may: many devices take it for no address at all (a null pointer, an empty entry of
    a ring or a list), and a driver's "if address:" would. iommufd does not choose it either.

    page_size: the unit of every address and size; None for the host's page size. fit: which of the holes that have room
    it uses. allow_zero: whether allocate() may return 0.
    """

    def __init__(
        self,
        ranges: Iterable[IovaRange],
        *,
        page_size: int | None = None,
        fit: Fit = Fit.FIRST,
        allow_zero: bool = False,
    ) -> None:
        """ranges: the addresses to give out; what is not a whole page at an end of a range is never used."""
        page_size = self.page_size = page_size or host_page_size()
        self.fit = fit
        self.allow_zero = allow_zero
        whole = (
            (-(-valid.start // page_size) * page_size, (valid.last + 1) // page_size * page_size) for valid in ranges
        )
        # Free spans, first address and end, ascending, no two of them adjacent.
        self._free = sorted(span for span in whole if span[0] < span[1])
        self._taken: dict[int, int] = {}

    @property
    def free_bytes(self) -> int:
        """How many bytes are free."""
        return sum(end - start for start, end in self._free)

    @property
    def largest_hole(self) -> int:
        """How many bytes the largest piece that is free has."""
        return max((end - start for start, end in self._free), default=0)

    def allocate(self, size: int, *, alignment: int | None = None) -> int:
        """Take size bytes, and return their address. free() gives them back.

        size is a multiple of page_size. alignment: the address is a multiple of it; a power of two and a multiple of
        page_size, which it is by default. Raises InvalidArgument for others, OutsideIovaRanges (ENOSPC) if no hole has
        room. A failure changes nothing.
        """
        alignment = alignment or self.page_size
        if size <= 0 or size % self.page_size or alignment & (alignment - 1) or alignment % self.page_size:
            raise InvalidArgument(
                errno.EINVAL,
                "allocate iova",
                {"size": size, "alignment": alignment},
                f"both must be multiples of the page size {self.page_size:#_x}, and alignment a power of two",
            )
        lowest = 0 if self.allow_zero else 1
        fitting = [
            (end - start, aligned)
            for start, end in self._free
            if (aligned := -(-(start or lowest) // alignment) * alignment) + size <= end
        ]
        if not fitting:
            meaning, advice = self._no_room(size)
            raise OutsideIovaRanges(
                errno.ENOSPC, "allocate iova", {"size": size, "alignment": alignment}, meaning, advice
            )
        iova = fitting[0][1] if self.fit is Fit.FIRST else min(fitting)[1]
        self._take(iova, size)
        return iova

    def _no_room(self, size: int) -> tuple[str, str]:
        """Why no hole has room, and what to do about it."""
        free = f"{self.free_bytes:#_x} bytes are free, the largest hole has {self.largest_hole:#_x}"
        if not self.allow_zero and self._free and self._free[0][0] == 0 and self._free[0][1] >= size:
            return (
                f"no hole has room but that at 0, an address that is kept back: {free}",
                "Free some, or allow_zero=True",
            )
        if self.largest_hole < size:
            return f"no hole has room: {free}", "Free some"
        return f"no hole has room at such an address: {free}", "Free some, or ask for less alignment"

    def reserve(self, iova: int, size: int) -> None:
        """Take these size bytes at iova, so that allocate() does not give them out. free() gives them back.

        Both are multiples of page_size. Raises InvalidArgument for others, OutsideIovaRanges (EEXIST) if some of the
        bytes are taken, or outside the ranges. A failure changes nothing.
        """
        if size <= 0 or (iova | size) % self.page_size:
            meaning = f"both must be multiples of the page size {self.page_size:#_x}"
            raise InvalidArgument(errno.EINVAL, "reserve iova", {"iova": iova, "size": size}, meaning)
        index = bisect_right(self._free, (iova, 1 << 65)) - 1
        if index < 0 or self._free[index][1] < iova + size:
            meaning = "some of it is taken already, or outside the ranges"
            raise OutsideIovaRanges(errno.EEXIST, "reserve iova", {"iova": iova, "size": size}, meaning)
        self._take(iova, size)

    def free(self, iova: int) -> int:
        """Give back what allocate() or reserve() took at iova; return how many bytes it was.

        Raises InvalidArgument if nothing that begins at iova is taken.
        """
        size = self._taken.pop(iova, 0)
        if not size:
            raise InvalidArgument(errno.EINVAL, "free iova", {"iova": iova}, "nothing that begins there is taken")
        start, end = iova, iova + size
        index = bisect_left(self._free, (start, end))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            start = self._free.pop(index - 1)[0]
        insort(self._free, (start, end))
        return size

    def _take(self, iova: int, size: int) -> None:
        """Take bytes that are free, all in one hole."""
        index = bisect_right(self._free, (iova, 1 << 65)) - 1
        start, end = self._free[index]
        left = [(start, iova), (iova + size, end)]
        self._free[index : index + 1] = [span for span in left if span[0] < span[1]]
        self._taken[iova] = size
