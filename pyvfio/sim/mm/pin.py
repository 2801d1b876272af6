"""A pin: pages that a device may reach, wherever their content is."""

from __future__ import annotations

import ctypes
import mmap as mmap_module
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.sim.process import Registers


@dataclass(frozen=True, slots=True)
class Private:
    """Memory of this process at an address."""

    address: int

    @property
    def place(self) -> tuple[None, int]:
        return None, self.address

    def at(self, offset: int) -> Private:
        return Private(self.address + offset)

    def read(self, size: int) -> bytes:
        return ctypes.string_at(self.address, size)

    def write(self, data: bytes) -> None:
        ctypes.memmove(self.address, data, len(data))


@dataclass(frozen=True, slots=True)
class Buffer:
    """Pages of a file, seen through a mapping of our own, or orphaned pages."""

    owner: tuple[int, int] | None
    """The device and the inode of the file; None for orphans."""
    buffer: mmap_module.mmap
    offset: int

    @property
    def place(self) -> tuple[tuple[int, int] | None, int]:
        return self.owner, self.offset

    def at(self, offset: int) -> Buffer:
        return Buffer(self.owner, self.buffer, self.offset + offset)

    def read(self, size: int) -> bytes:
        return self.buffer[self.offset : self.offset + size]

    def write(self, data: bytes) -> None:
        self.buffer[self.offset : self.offset + len(data)] = data


@dataclass(slots=True)
class Segment:
    """size bytes of a pin, from start of it on."""

    start: int
    size: int
    pages: Private | Buffer


class Pin:
    """size bytes that a device may reach; offsets are from the pin's start. charged: how many of them are charged."""

    __slots__ = ("charged", "places", "segments", "size")

    def __init__(self, size: int, segments: list[Segment]) -> None:
        self.size = self.charged = size
        self.segments = segments
        self.places = [(*segment.pages.place, segment.size) for segment in segments]
        """What was pinned, wherever its content is now: a file (None: private memory), the place in it, and bytes."""

    @property
    def is_there(self) -> bool:
        """Whether the IOMMU still leads there."""
        return True

    def read(self, offset: int, size: int) -> bytes:
        return b"".join(pages.read(length) for pages, _, length in self._parts(offset, size))

    def write(self, offset: int, data: bytes) -> None:
        for pages, start, length in self._parts(offset, len(data)):
            pages.write(data[start : start + length])

    def part(self, offset: int, size: int) -> Pin:
        """size bytes of it, wherever they are now, as a pin that nobody keeps account of."""
        segments, start = [], 0
        for pages, _, length in self._parts(offset, size):
            segments.append(Segment(start, length, pages))
            start += length
        return Pin(size, segments)

    def _parts(self, offset: int, size: int) -> list[tuple[Private | Buffer, int, int]]:
        parts = []
        for segment in self.segments:
            start, end = max(offset, segment.start), min(offset + size, segment.start + segment.size)
            if start < end:
                parts.append((segment.pages.at(start - segment.start), start - offset, end - start))
        return parts


class RegisterPin(Pin):
    """Registers of a device, from first on, in place of memory. Nothing is charged for them."""

    __slots__ = ("_first", "_is_lost_by_silence", "_registers", "_silences")

    def __init__(self, size: int, registers: Registers, first: int, *, is_lost_by_silence: bool) -> None:
        """is_lost_by_silence: the IOMMU leads there no more once the device has stopped to decode memory."""
        super().__init__(size, [])
        self.charged = 0
        self._registers = registers
        self._first = first
        self._is_lost_by_silence = is_lost_by_silence
        self._silences = registers.silences

    @property
    def is_there(self) -> bool:
        return not self._is_lost_by_silence or self._registers.silences == self._silences

    def read(self, offset: int, size: int) -> bytes:
        registers = self._registers
        if not registers.answers:
            return bytes(size)
        return b"".join(
            registers.load(start, width).to_bytes(width, "little") for start, width in self._each(offset, size)
        )

    def write(self, offset: int, data: bytes) -> None:
        if self._registers.answers:
            for start, width in self._each(offset, len(data)):
                done = start - self._first - offset
                self._registers.store(start, width, int.from_bytes(data[done : done + width], "little"))

    def _each(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """The accesses, as offset and width, that a transfer is made of: as wide as alignment and size allow."""
        start, end = self._first + offset, self._first + offset + size
        while start < end:
            width = next(width for width in (8, 4, 2, 1) if not start % width and start + width <= end)
            yield start, width
            start += width
