"""Dirty bitmaps as type1 hands them out. Source: vfio_dma_bitmap_alloc, update_user_bitmap, vfio_iova_dirty_bitmap."""

from __future__ import annotations

from pyvfio.sim.process import read_memory, write_memory

_WORD = 64
_WORD_BYTES = 8
LARGEST_BITMAP = 1 << 28
"""Bytes of the largest bitmap a program may pass."""
MOST_PAGES = (1 << 31) - 1
"""Of a mapping whose dirty pages can be tracked."""


def bitmap_bytes(pages: int) -> int:
    """A bit for each page, in whole words."""
    return -(-pages // _WORD) * _WORD_BYTES


class DirtyBitmap:
    """The bits of one mapping. No more bits are cleared than it has pages: what a shift moved beyond them stays."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._bits = 0

    def hand_out(self, address: int, offset: int, *, all_dirty: bool) -> None:
        """Write the bits into the program's bitmap at an address. offset: the bit there of the mapping's first page.

        all_dirty: every page counts as written. Whole words are written, and the bits before the first page stay.
        Raises OSError(EFAULT).
        """
        if all_dirty:
            self._bits |= (1 << self._pages) - 1
        word, shift = divmod(offset, _WORD)
        place = address + word * _WORD_BYTES
        size = bitmap_bytes(self._pages + shift)
        if shift:
            moved = (self._bits & (1 << 8 * size) - 1) << shift & (1 << 8 * size) - 1
            self._bits = self._bits >> 8 * size << 8 * size | moved
            self._bits |= int.from_bytes(read_memory(place, _WORD_BYTES), "little")
        write_memory(place, (self._bits & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def clear(self) -> None:
        """No page counts as written."""
        self._bits = self._bits >> self._pages << self._pages
