"""IovaAllocator: device addresses for those who do not choose them themselves."""

from __future__ import annotations

import enum
import errno
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from pyvfio.dma.address_space import IovaRange
from pyvfio.errors import InvalidArgument, OutsideIovaRanges


class Fit(enum.Enum):
    """Which of the holes with room is taken."""

    FIRST = "first"
    """The lowest: addresses stay small."""
    BEST = "best"
    """The smallest, the lowest of equals: large holes stay large."""


class IovaAllocator:
    """Hands out addresses of an address space's iova_ranges, and takes them back. Bytes; not safe from several threads.

    It knows what it has given out, not what is mapped: keep reserve() in step with other users of the addresses.
    """

    def __init__(self, ranges: Iterable[IovaRange], *, page_size: int = 4096, fit: Fit = Fit.FIRST) -> None:
        """page_size: the unit of every address and size; parts of ranges that are no whole unit are never used."""
        self.page_size = page_size
        self.fit = fit
        whole = (
            (-(-valid.start // page_size) * page_size, (valid.last + 1) // page_size * page_size) for valid in ranges
        )
        # Free spans, first address and end, ascending, no two of them adjacent.
        self._free = sorted(span for span in whole if span[0] < span[1])
        self._taken: dict[int, int] = {}

    @property
    def free_bytes(self) -> int:
        return sum(end - start for start, end in self._free)

    @property
    def largest_hole(self) -> int:
        """Bytes that can be had in one piece, without an alignment."""
        return max((end - start for start, end in self._free), default=0)

    def allocate(self, size: int, *, alignment: int | None = None) -> int:
        """An address for size bytes, a multiple of alignment (a power of two, page_size if none is given).

        Raises OutsideIovaRanges (ENOSPC) where no hole has room: nothing has changed then. Raises InvalidArgument.
        """
        alignment = alignment or self.page_size
        if size <= 0 or size % self.page_size or alignment & (alignment - 1) or alignment % self.page_size:
            raise InvalidArgument(
                errno.EINVAL,
                "allocate iova",
                {"size": size, "alignment": alignment},
                f"both must be multiples of the page size {self.page_size:#_x}, and alignment a power of two",
            )
        fitting = [
            (end - start, aligned)
            for start, end in self._free
            if (aligned := -(-start // alignment) * alignment) + size <= end
        ]
        if not fitting:
            raise OutsideIovaRanges(
                errno.ENOSPC,
                "allocate iova",
                {"size": size, "alignment": alignment},
                f"no hole has room: {self.free_bytes:#_x} bytes are free, the largest hole has {self.largest_hole:#_x}",
                "Free some, or ask for less alignment",
            )
        iova = fitting[0][1] if self.fit is Fit.FIRST else min(fitting)[1]
        self._take(iova, size)
        return iova

    def reserve(self, iova: int, size: int) -> None:
        """Take addresses of one's own choice, so that none else gets them; free() gives them back.

        Raises InvalidArgument, OutsideIovaRanges if some of them are taken, or were never to be had.
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
        """Give back what allocate() returned or reserve() took at iova; return its size. Raises InvalidArgument."""
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
        index = bisect_right(self._free, (iova, 1 << 65)) - 1
        start, end = self._free[index]
        left = [(start, iova), (iova + size, end)]
        self._free[index : index + 1] = [span for span in left if span[0] < span[1]]
        self._taken[iova] = size
