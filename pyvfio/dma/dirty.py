"""DirtyBitmap: which pages devices have written; DirtyTracking: how the kernel is asked, stretch by stretch."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.dma.address_space import IovaRange, MappedRun
from pyvfio.dma.bits import JoinedBits, turns
from pyvfio.errors import DeviceBusy, InvalidArgument, NotMapped
from pyvfio.records import records
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.dma.mapping_space import MappingSpace


@dataclass(frozen=True, slots=True)
class DirtyBitmap:
    """Which pages of a range of device addresses are dirty. A page that is not mapped is not dirty.

    iova: where the range begins. size: its bytes. page_size: bytes of a page. bits: bit i is set if page i is dirty.
    """

    iova: int
    size: int
    page_size: int
    bits: int

    @property
    def dirty_bytes(self) -> int:
        """How many bytes the dirty pages have."""
        return self.bits.bit_count() * self.page_size

    def is_dirty(self, iova: int) -> bool:
        """Whether the page at this address is dirty. Raises InvalidArgument for an address outside the range."""
        if not self.iova <= iova < self.iova + self.size:
            raise InvalidArgument(errno.EINVAL, "dirty bitmap", {"iova": iova}, "outside its range")
        return bool(self.bits >> (iova - self.iova) // self.page_size & 1)

    def runs(self) -> tuple[IovaRange, ...]:
        """The addresses of the dirty pages, ascending; adjacent pages as one range."""
        found = turns(self.bits)
        iova, page_size = self.iova, self.page_size
        starts = [iova + page * page_size for page in found[::2]]
        lasts = [iova + page * page_size - 1 for page in found[1::2]]
        return records(IovaRange, start=starts, last=lasts)

    def __or__(self, other: DirtyBitmap) -> DirtyBitmap:
        """The pages that are dirty in either of two bitmaps of the same range. It adds up reads, which clear the bits.

        Raises InvalidArgument for bitmaps of different ranges.
        """
        if (self.iova, self.size, self.page_size) != (other.iova, other.size, other.page_size):
            raise InvalidArgument(errno.EINVAL, "dirty bitmap", {"iova": other.iova}, "of another range")
        return DirtyBitmap(self.iova, self.size, self.page_size, self.bits | other.bits)


class DirtyTracking(Resource, ABC):
    """The kernel notes which pages the devices of an address space write, until close().

    Where the IOMMU cannot tell, every page that is mapped counts as dirty. space: the address space. page_size: how
    many bytes a bit stands for.
    """

    def __init__(self, parent: Resource, space: MappingSpace, page_size: int, largest: int) -> None:
        """parent: the resource that closes this one. largest: how many bytes one call to the kernel can ask about."""
        self.space = space
        self.page_size = page_size
        self._largest = largest
        super().__init__(parent)

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """Which pages of the range were written since the last read, or since tracking began: reading clears the bits.

        Some IOMMUs do not clear them. iova and size are bytes and multiples of page_size. Holes are allowed.
        Raises InvalidArgument for another range, NotMapped for one that cuts a mapping, VfioError.
        """
        self.require_open()
        with self._lock:
            return self._collect(iova, size, self._read)

    def _collect(self, iova: int, size: int, ask: Callable[[int, int], int]) -> DirtyBitmap:
        """The bitmap of the range, put together from what ask() tells of each stretch without holes."""
        self._check_range(iova, size)
        joined = JoinedBits()
        for start, length in stretches(self.space.mappings_in(iova, size), self._largest):
            joined.add((start - iova) // self.page_size, ask(start, length))
        return DirtyBitmap(iova, size, self.page_size, joined.number())

    def _check_range(self, iova: int, size: int) -> None:
        """Raises InvalidArgument for a range that is not whole pages, NotMapped for one that cuts a mapping."""
        arguments = {"iova": iova, "size": size}
        if iova < 0 or size <= 0 or (iova | size) % self.page_size:
            meaning = f"not a range in units of {self.page_size:#_x}"
            raise InvalidArgument(errno.EINVAL, "read dirty bitmap", arguments, meaning)
        if cut := self.space.mapping_cut_by(iova, size):
            meaning = f"it would cut a mapping of {cut.iova:#_x}-{cut.end - 1:#_x}"
            raise NotMapped(errno.EINVAL, "read dirty bitmap", arguments, meaning, "Ask for mappings as a whole")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.space!r}{' closed' if self._closed else ''}>"

    @abstractmethod
    def _read(self, iova: int, size: int) -> int:
        """Ask the kernel for the bits of a stretch without holes, and clear them. Raises VfioError."""


def tracks_already(name: str) -> DeviceBusy:
    """The error for a second DirtyTracking. name: of what is tracked."""
    meaning = f"{name} tracks already: there is one at a time"
    return DeviceBusy(errno.EBUSY, "track_dirty", meaning=meaning, advice="Close that first, or read it")


def stretches(runs: Iterable[MappedRun], largest: int) -> Iterator[tuple[int, int]]:
    """The addresses of runs, as stretches (iova, size) without holes, each of at most largest bytes and of whole
    mappings. A mapping of more bytes is a stretch of its own."""
    start = size = 0
    for part in (part for run in runs for part in run.parts()):
        position, left = part.start, len(part)
        while left:
            if size and (start + size != position or size + part.step > largest):
                yield start, size
                size = 0
            if not size:
                start = position
            taken = min(left, max((largest - size) // part.step, 1))
            position, left, size = position + taken * part.step, left - taken, size + taken * part.step
    if size:
        yield start, size
