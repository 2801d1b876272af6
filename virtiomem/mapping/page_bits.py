"""PageBits: a bit for each page of a region; changing a range costs what the range costs, not what the region costs."""

from __future__ import annotations


class PageBits:
    """A bit for each of count pages, all clear at first. The first page of each byte is the least significant bit."""

    def __init__(self, count: int) -> None:
        self._bytes = bytearray(-(-count // 8))

    def fill(self, first: int, end: int) -> None:
        """Set the bits of the pages from first up to end."""
        self._all(first, end, b"\xff")

    def clear(self, first: int, end: int) -> None:
        """Clear the bits of the pages from first up to end."""
        self._all(first, end, b"\0")

    def add(self, first: int, bits: bytes, skip: int, count: int) -> None:
        """Set those of count pages from first whose bit is set in bits, after skipping so many of its bits."""
        source = int.from_bytes(bits[skip // 8 : -(-(skip + count) // 8)], "little") >> skip % 8
        wanted = source & (1 << count) - 1
        start, stop = first // 8, -(-(first + count) // 8)
        known = int.from_bytes(self._bytes[start:stop], "little")
        self._bytes[start:stop] = (known | wanted << first % 8).to_bytes(stop - start, "little")

    def take(self, first: int, end: int) -> bytes:
        """The bytes from first up to end, which are zero from now on."""
        taken = bytes(self._bytes[first:end])
        self._bytes[first:end] = bytes(len(taken))
        return taken

    def count(self) -> int:
        """How many bits are set."""
        return int.from_bytes(self._bytes, "little").bit_count()

    def _all(self, first: int, end: int, byte: bytes) -> None:
        start, stop = -(-first // 8), end // 8
        if start > stop:
            # All of them are bits of one byte, and neither its first nor its last.
            self._some(stop, first % 8, end % 8, byte)
            return
        self._bytes[start:stop] = byte * (stop - start)
        if first % 8:
            self._some(first // 8, first % 8, 8, byte)
        if end % 8:
            self._some(stop, 0, end % 8, byte)

    def _some(self, index: int, first: int, end: int, byte: bytes) -> None:
        mask = (1 << end) - (1 << first)
        self._bytes[index] = self._bytes[index] & ~mask | byte[0] & mask
