"""Pinned memory: what a device reaches through its mappings, also after the CPU's side was discarded.

A pin of private memory is reached through its address, and one of a shared file through the file. Before pinned pages
are discarded, their content moves to an orphan, which every pin of those pages then reaches: the device keeps the old
page, the CPU gets a new one, and nobody is told.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap as mmap_module
import os
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pyvfio.abi import mman
from pyvfio.kernel import LinuxKernel
from pyvfio.sim.mm.intervals import Intervals
from pyvfio.sim.mm.pin import Buffer, Pin, Private, Segment
from pyvfio.sim.process import Process, fail

PAGE = 4096

# Of an entry of /proc/self/pagemap: present; swapped, of a file, mapped by this process alone.
_PRESENT = 1 << 63
_STATE = _PRESENT | 1 << 62 | 1 << 61 | 1 << 56


_Overlap = Callable[["Private | Buffer", int], "tuple[int, int] | None"]
"""From pages and their size to the part that a discard takes: its first and end, addresses or offsets in a file."""


@dataclass(frozen=True, slots=True)
class _Area:
    """size bytes that process has mapped. file: the device and inode of a shared file, which is mapped from offset."""

    process: Process
    start: int
    size: int
    file: tuple[int, int] | None
    offset: int

    @property
    def end(self) -> int:
        return self.start + self.size


class PageTracker:
    """What processes have mapped, and what of it is pinned. It is told of every call that changes memory.

    A process does not have the memory of another. What nobody has mapped through the simulated kernel, all have.
    populate_on_pin: pinning takes real pages.
    """

    def __init__(self, real: LinuxKernel, *, populate_on_pin: bool) -> None:
        self._real = real
        self._populate_on_pin = populate_on_pin
        self._areas: list[_Area] = []
        self._files: dict[tuple[int, int], mmap_module.mmap] = {}
        # By the address of private memory, and by the offset in each file.
        self._pins: defaultdict[tuple[int, int] | None, Intervals[Pin]] = defaultdict(Intervals)

    def mapped(self, process: Process, start: int, size: int, flags: int, fd: int, offset: int) -> None:
        """mmap() has been called. A shared file is known by its device and inode, not by its descriptor."""
        self._forget(start, size)
        file = None
        if fd >= 0 and flags & mman.MAP_SHARED:
            file = self._remember(fd, os.fstat(fd))
        area = _Area(process, start, size, file, offset)
        self._areas.insert(bisect_right(self._areas, start, key=lambda area: area.start), area)

    def unmapping(self, start: int, size: int) -> None:
        """munmap(), or mmap() with MAP_FIXED, is about to be called."""
        self._orphan_private(start, size)
        self._forget(start, size)

    def advising(self, start: int, size: int, advice: int) -> None:
        """madvise() is about to be called."""
        if advice in (mman.MADV_DONTNEED, mman.MADV_FREE, mman.MADV_REMOVE):
            self._orphan_private(start, size)
            if advice == mman.MADV_REMOVE:
                for area in self._areas:
                    if area.file and area.start < start + size and start < area.end:
                        first, last = max(area.start, start), min(area.end, start + size)
                        self._orphan_file(area.file, area.offset + first - area.start, last - first)

    def punching(self, fd: int, offset: int, size: int) -> None:
        """fallocate() with FALLOC_FL_PUNCH_HOLE is about to be called."""
        status = os.fstat(fd)
        self._orphan_file((status.st_dev, status.st_ino), offset, size)

    def pin(self, process: Process, address: int, size: int, *, write: bool, unshares: bool) -> Pin:
        """Pin size bytes of process at an address. write: devices write to them. Raises OSError(EFAULT) without a page.

        Private memory that was never written is the zero page of all. unshares: pinning it to be read gives the process
        a page of its own, as since Linux 6.2; without, the device stays on the zero page, which is not charged.
        """
        if not self._is_there(process, address, size, write=write):
            raise fail(errno.EFAULT)
        pin = self._enter(Pin(size, self._segments(address, size)))
        if self._populate_on_pin and not write:
            for page in self._zero_pages(address, size):
                if unshares:
                    _unshare(page)
                else:
                    self._orphan_private(page, PAGE, only=pin)
                    pin.charged -= PAGE
        return pin

    def reachable(self, process: Process, address: int, size: int, *, write: bool) -> int:
        """How many bytes from an address on can be pinned, up to where there is no page."""
        there, absent = 0, size // PAGE + 1
        while absent - there > 1:
            middle = (there + absent) // 2
            if self._is_there(process, address, middle * PAGE, write=write):
                there = middle
            else:
                absent = middle
        return there * PAGE

    def memory_file(self, fd: int) -> tuple[int, int]:
        """The device and inode of a descriptor's file, which need not be one in memory. Raises OSError(EBADF)."""
        status = os.fstat(fd)
        if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
            return self._remember(fd, status)
        return status.st_dev, status.st_ino

    def pin_file(self, file: tuple[int, int], offset: int, size: int) -> Pin:
        """Pin size bytes of a file. Raises OSError(EINVAL) for a file that is not in memory, and beyond its end."""
        if file not in self._files or offset + size > len(self._files[file]):
            raise fail(errno.EINVAL)
        return self._enter(Pin(size, [Segment(0, size, Buffer(file, self._files[file], offset))]))

    # Physical addresses, which devices without an IOMMU use. That of a page of private memory is where this process has
    # it; that of a file's page is where the mapping of it has it that the tracker made.

    def physical(self, pin: Pin, offset: int) -> tuple[int, int]:
        """The physical address of a pinned page, whatever the program has in its place now, and how many bytes of the
        pin lie there without a gap."""
        for owner, start, size in pin.places:
            if offset < size:
                base = start if owner is None else self._base(owner) + start
                return base + offset, size - offset
            offset -= size
        raise ValueError("beyond the pin")

    def physical_of(self, address: int) -> int:
        """The physical address of the page that the program has at an address now."""
        (segment,) = self._segments(address, 1)
        owner, start = segment.pages.place
        return address if owner is None else self._base(owner) + start

    def reach(self, physical: int, size: int) -> Pin | None:
        """size bytes at a physical address, which are not pinned by it; None where there is no memory.

        A page that is pinned is found by the pin: the program may have put another in its place.
        """
        owner, start = self._place(physical)
        for pin in self._pins[owner].near(start, size):
            offset = 0
            for pinned, first, length in pin.places:
                if pinned == owner and first <= start and start + size <= first + length:
                    return pin.part(offset + start - first, size)
                offset += length
        if owner is not None:
            return Pin(size, [Segment(0, size, Buffer(owner, self._files[owner], start))])
        return Pin(size, self._segments(physical, size)) if self._known(physical, size) else None

    def _place(self, physical: int) -> tuple[tuple[int, int] | None, int]:
        """The file whose page is at a physical address, and the offset in it. None: private memory, and its address."""
        for file, content in self._files.items():
            offset = physical - self._base(file)
            if 0 <= offset < len(content):
                return file, offset
        return None, physical

    def _base(self, file: tuple[int, int]) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._files[file]))

    def unpin(self, pin: Pin) -> None:
        for owner, start, _ in pin.places:
            self._pins[owner].remove(start, pin)

    def _enter(self, pin: Pin) -> Pin:
        for owner, start, length in pin.places:
            self._pins[owner].add(start, length, pin)
        return pin

    def _remember(self, fd: int, status: os.stat_result) -> tuple[int, int]:
        file = (status.st_dev, status.st_ino)
        if file not in self._files:
            self._files[file] = mmap_module.mmap(fd, status.st_size, flags=mmap_module.MAP_SHARED)
        return file

    def _segments(self, address: int, size: int) -> list[Segment]:
        segments = []
        position, end = address, address + size
        while position < end:
            index = bisect_right(self._areas, position, key=lambda area: area.start) - 1
            area = self._areas[index] if index >= 0 and position < self._areas[index].end else None
            following = self._areas[index + 1].start if index + 1 < len(self._areas) else end
            stop = min(end, area.end if area else following)
            pages: Private | Buffer = Private(position)
            if area and area.file:
                pages = Buffer(area.file, self._files[area.file], area.offset + position - area.start)
            segments.append(Segment(position - address, stop - position, pages))
            position = stop
        return segments

    def _zero_pages(self, address: int, size: int) -> list[int]:
        """The addresses of pages of private memory that were never written, so that all processes share them."""
        count = size // PAGE
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            entries = struct.unpack(f"<{count}Q", os.pread(pagemap.fileno(), 8 * count, address // PAGE * 8))
        pages = (address + number * PAGE for number, entry in enumerate(entries) if entry & _STATE == _PRESENT)
        return [page for page in pages if not any(ctypes.string_at(page, PAGE))]

    def areas_of(self, process: Process) -> list[tuple[int, int]]:
        """The address and the size of everything that a process has mapped."""
        return [(area.start, area.size) for area in self._areas if area.process is process]

    def _is_there(self, process: Process, address: int, size: int, *, write: bool) -> bool:
        """Whether process has memory in all of a range. Pages are taken if pinning takes them."""
        if self._is_anothers(process, address, size):
            return False
        if not self._populate_on_pin:
            return self._known(address, size)
        try:
            self._real.madvise(address, size, mman.MADV_POPULATE_WRITE if write else mman.MADV_POPULATE_READ)
        except OSError:
            return False
        return True

    def _is_anothers(self, process: Process, address: int, size: int) -> bool:
        """Whether any of a range has been mapped by another process."""
        index = bisect_right(self._areas, address, key=lambda area: area.start)
        start = index - 1 if index and address < self._areas[index - 1].end else index
        for area in itertools.islice(self._areas, start, None):
            if area.start >= address + size:
                break
            if area.process is not process:
                return True
        return False

    def _known(self, address: int, size: int) -> bool:
        position = address
        while position < address + size:
            index = bisect_right(self._areas, position, key=lambda area: area.start) - 1
            if index < 0 or position >= self._areas[index].end:
                return False
            position = self._areas[index].end
        return True

    def _forget(self, start: int, size: int) -> None:
        kept = []
        for area in self._areas:
            if area.end <= start or start + size <= area.start:
                kept.append(area)
                continue
            if area.start < start:
                kept.append(replace(area, size=start - area.start))
            if start + size < area.end:
                moved = start + size - area.start
                end = area.end
                kept.append(replace(area, start=start + size, size=end - start - size, offset=area.offset + moved))
        self._areas = kept

    def _orphan_private(self, start: int, size: int, *, only: Pin | None = None) -> None:
        def overlap(pages: Private | Buffer, length: int) -> tuple[int, int] | None:
            if not isinstance(pages, Private):
                return None
            return max(start, pages.address), min(start + size, pages.address + length)

        self._orphan(start, size, overlap, self._pins[None].near(start, size) if only is None else (only,))

    def _orphan_file(self, file: tuple[int, int], offset: int, size: int) -> None:
        def overlap(pages: Private | Buffer, length: int) -> tuple[int, int] | None:
            if isinstance(pages, Private) or pages.owner != file:
                return None
            return max(offset, pages.offset), min(offset + size, pages.offset + length)

        self._orphan(offset, size, overlap, self._pins[file].near(offset, size))

    @staticmethod
    def _orphan(start: int, size: int, overlap: _Overlap, pins: Iterable[Pin]) -> None:
        """Move pinned pages of the range (addresses, or offsets in a file) to an orphan that all their pins share."""
        orphan: mmap_module.mmap | None = None
        for pin in pins:
            segments: list[Segment] = []
            for segment in pin.segments:
                span = overlap(segment.pages, segment.size)
                if span is None or span[0] >= span[1]:
                    segments.append(segment)
                    continue
                base = segment.pages.address if isinstance(segment.pages, Private) else segment.pages.offset
                first, last = span[0] - base, span[1] - base
                orphan = orphan or mmap_module.mmap(-1, size, flags=mmap_module.MAP_PRIVATE | mman.MAP_NORESERVE)
                kept = Buffer(None, orphan, span[0] - start)
                kept.write(segment.pages.at(first).read(last - first))
                if first:
                    segments.append(Segment(segment.start, first, segment.pages))
                segments.append(Segment(segment.start + first, last - first, kept))
                if last < segment.size:
                    segments.append(Segment(segment.start + last, segment.size - last, segment.pages.at(last)))
            pin.segments = segments


def _unshare(page: int) -> None:
    """Give the process a page of its own for the zero page at this address.

    Where it may not write, the running kernel may refuse: it then gets one by the write that it is allowed one day.
    """
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory, suppress(OSError):
        os.pwrite(memory.fileno(), b"\0", page)
