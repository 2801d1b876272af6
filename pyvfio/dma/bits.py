"""Bitmaps of pages as the kernel writes them, as numbers, and as runs of ones: by bytes and never by pages."""

from __future__ import annotations

import sys
from array import array
from re import Match, finditer

_WORD = 64
_CHUNK = 2048
"""Bytes that are compared at once, to pass over what is all zeros or all ones."""
_PLACES = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))
"""For each value of a byte, which of its bits are set."""
_IS_SET = bytes(1) + b"\x01" * 255


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


class JoinedBits:
    """The bitmap of a range, put together from those of its stretches, ascending: each is moved once, however many."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, first: int, bits: int) -> None:
        """Set bits, of which the lowest is page first of the range. What is not dirty costs nothing."""
        start, odd = divmod(first, 8)
        bits <<= odd
        size = -(-bits.bit_length() // 8)
        if not size:
            return
        if missing := max(start + size - len(self._bytes), 0):
            self._bytes += bytes(missing)
        piece = bytearray(bits.to_bytes(size, "little"))
        # Neighbours share a byte where they do not meet between two.
        piece[0] |= self._bytes[start]
        if size > 1:
            piece[-1] |= self._bytes[start + size - 1]
        self._bytes[start : start + size] = piece

    def number(self) -> int:
        """All bits."""
        return int.from_bytes(self._bytes, "little")


def turns(bits: int) -> list[int]:
    """Where runs of ones begin and where they have ended, by turns, ascending: of 0b0110 that is 1 and 3."""
    found: list[int] = []
    size = bits.bit_length() // 8 + 1
    # With a byte of zeros behind, every run ends.
    data = bits.to_bytes(size, "little")
    alike = (bytes(_CHUNK), b"\xff" * _CHUNK)
    before = 0
    for start in range(0, size, _CHUNK):
        chunk = data[start : start + _CHUNK]
        if chunk == alike[before]:
            continue
        here = int.from_bytes(chunk, "little")
        # A bit that differs from the one below it.
        differs = (here ^ here << 1 ^ before).to_bytes(len(chunk) + 1, "little")[: len(chunk)]
        marks = differs.translate(_IS_SET)
        places = map(Match.start, finditer(b"\x01", marks))
        found += [(start + at) * 8 + place for at in places for place in _PLACES[differs[at]]]
        before = chunk[-1] >> 7
    return found
