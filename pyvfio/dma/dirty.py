"""DirtyBitmap: which pages devices have written; DirtyTracking: how the kernel is asked, stretch by stretch."""

from __future__ import annotations

import errno
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.dma.address_space import IovaRange, MappedRun
from pyvfio.errors import DeviceBusy, InvalidArgument, NotMapped
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.dma.mapping_space import MappingSpace

_WORD = 64
_FULL = (1 << _WORD) - 1


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
        runs: list[IovaRange] = []
        for first, last in _runs_of_ones(self.bits):
            start = self.iova + first * self.page_size
            runs.append(IovaRange(start, self.iova + (last + 1) * self.page_size - 1))
        return tuple(runs)

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
        bits = 0
        for start, length in stretches(self.space.mappings_in(iova, size), self._largest):
            bits |= ask(start, length) << (start - iova) // self.page_size
        return DirtyBitmap(iova, size, self.page_size, bits)

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


def bitmap_size(size: int, page_size: int) -> int:
    """How many bytes the kernel wants a bitmap of size bytes of memory to have: whole words of 64 bits."""
    return -(-size // page_size // _WORD) * 8 or 8


def bits_of(data: bytes, size: int, page_size: int) -> int:
    """The bitmap that the kernel wrote to data, as a number, without the bits beyond size bytes of memory."""
    return int.from_bytes(words_in_order(data), "little") & ((1 << size // page_size) - 1)


def bitmap_of(bits: int) -> bytes:
    """A bitmap as the kernel reads it: whole words of 64 bits in the processor's byte order."""
    return words_in_order(bits.to_bytes(-(-bits.bit_length() // _WORD) * 8, "little"))


def words_in_order(data: bytes, byteorder: str = sys.byteorder) -> bytes:
    """Words of 64 bits in the processor's byte order as little endian ones, and back."""
    if byteorder == "little":
        return data
    words = array("Q", data)
    words.byteswap()
    return words.tobytes()


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


def _runs_of_ones(bits: int) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of bits that are set."""
    # Word by word: in most words all bits are alike.
    words = memoryview(bitmap_of(bits) + bytes(8)).cast("Q")
    first: int | None = None
    for index, word in enumerate(words):
        if word == (0 if first is None else _FULL):
            continue
        for bit in range(_WORD):
            is_set = word >> bit & 1
            if is_set and first is None:
                first = index * _WORD + bit
            elif not is_set and first is not None:
                yield first, index * _WORD + bit - 1
                first = None
