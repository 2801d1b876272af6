"""Address spaces of iommufd: their areas, and what the devices in them reserve.

Source: drivers/iommu/iommufd/io_pagetable.c.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pyvfio.abi import vfio
from pyvfio.sim.iommu import ALL_ADDRESSES, Span, common
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.pages import PageSet
from pyvfio.sim.mm import PAGE, PageTracker, Pin
from pyvfio.sim.process import fail

_HUGE_PAGE = 2 << 20
_LAST = (1 << 64) - 1
READ, WRITE = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE


@dataclass(frozen=True, slots=True)
class Area:
    """size bytes of pages, from offset, at iova. flags: READ and WRITE."""

    iova: int
    size: int
    pages: PageSet
    offset: int
    flags: int

    @property
    def end(self) -> int:
        return self.iova + self.size

    @property
    def pin(self) -> Pin | None:
        return self.pages.pin

    def use(self, domains: Sequence[Domain]) -> None:
        """Pin and charge it, for the domains to hold. Raises OSError as PageSet.use and the domains' drivers do."""
        self.pages.use(self.offset, self.size)
        if not self.flags and not all(domain.maps_for_nothing for domain in domains):
            self.drop()
            raise fail(errno.EINVAL)

    def drop(self) -> None:
        """The domains hold it no more."""
        self.pages.drop(self.offset, self.size)


@dataclass(eq=False, slots=True)
class Domain:
    """What an IOMMU translates for one page table. ranges: the addresses it takes; alignment: its smallest page, bytes.

    tells_physical: it translates nothing, and is there to be asked where pages lie. maps_for_nothing: its driver takes
    a mapping for neither reading nor writing. dirty: numbers of pages of 4 KiB that devices have written.
    """

    ranges: tuple[Span, ...]
    alignment: int
    tells_physical: bool = False
    maps_for_nothing: bool = False
    dirty: set[int] = field(default_factory=set)


class IoasState(IommufdObject):
    """One address space. memory: where pages are pinned.

    domains: of the page tables that hold its areas; with none, nothing is pinned. The first is asked where pages lie.
    locked: addresses that hardware queues use, first and last of each: they stay mapped as long. large_pages: whether
    IOMMU_OPTION_HUGE_PAGES is on. allowed: addresses kept for the program to use, first and last of each.
    """

    def __init__(self, memory: PageTracker) -> None:
        super().__init__()
        self._memory = memory
        self._starts: list[int] = []
        self._areas: list[Area] = []
        self.domains: list[Domain] = []
        self.locked: list[Span] = []
        self.large_pages = True
        self.allowed: list[tuple[int, int]] = []

    @property
    def alignment(self) -> int:
        """What addresses and sizes must be multiples of, in bytes."""
        unit = PAGE if self.locked or not self.large_pages else 1
        return max(unit, *(domain.alignment for domain in self.domains), 1)

    @property
    def areas(self) -> tuple[Area, ...]:
        """Ascending."""
        return tuple(self._areas)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The addresses that no device reserves: first and last of each."""
        ranges: tuple[Span, ...] = (ALL_ADDRESSES,)
        for domain in self.domains:
            ranges = common(ranges, domain.ranges)
        return ranges

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        """Area, offset in its pages and length of each part of a transfer; None if the IOMMU stops it anywhere."""
        parts = []
        while size:
            index = bisect_right(self._starts, iova) - 1
            if index < 0 or self._areas[index].end <= iova or not self._areas[index].flags & flag:
                return None
            area = self._areas[index]
            length = min(size, area.end - iova)
            parts.append((area, area.offset + iova - area.iova, length))
            iova, size = iova + length, size - length
        return parts

    def reach(self, iova: int) -> int:
        """The end of what is mapped without a hole from iova on; iova if nothing is mapped there."""
        for area in self._areas[max(bisect_right(self._starts, iova) - 1, 0) :]:
            if not area.iova <= iova < area.end:
                break
            iova = area.end
        return iova

    def add_domain(self, domain: Domain) -> None:
        """Let one more page table hold the areas. Raises OSError: EADDRINUSE if it cannot hold one, and what pinning
        raises."""
        for area in self._areas:
            is_outside = not _inside(domain.ranges, area.iova, area.end - 1)
            if is_outside or (area.iova | area.size) % domain.alignment:
                raise fail(errno.EADDRINUSE)
        if not all(_inside(domain.ranges, first, last) for first, last in self.allowed):
            raise fail(errno.EADDRINUSE)
        if not self.domains:
            done: list[Area] = []
            try:
                for area in self._areas:
                    area.use([domain])
                    done.append(area)
            except OSError:
                for area in done:
                    area.drop()
                raise
        self.domains.append(domain)

    def remove_domain(self, domain: Domain) -> None:
        """A page table is gone. With the last one, nothing stays pinned."""
        # The last takes its place: the kernel leaves no gap.
        self.domains[self.domains.index(domain)] = self.domains[-1]
        self.domains.pop()
        if not self.domains:
            for area in self._areas:
                area.drop()

    def map(self, iova: int | None, pages: PageSet, access: int) -> int:
        """Map the pages as one area: its address. iova None: wherever there is room. Source: iopt_map_pages."""
        source = pages.source
        if source.start + source.size > _LAST:
            raise fail(errno.EOVERFLOW)
        if not source.size or source.size % self.alignment:
            raise fail(errno.EINVAL)
        if iova is None:
            iova = self.find_room(source.start, source.size)
        self.insert([Area(iova, source.size, pages, 0, access)])
        return iova

    def insert(self, areas: list[Area]) -> None:
        """Enter areas that follow one another. Raises OSError as iopt_map_pages does; nothing is entered then."""
        first, last = areas[0].iova, areas[-1].end - 1
        if sum(area.size for area in areas) % self.alignment or first % self.alignment:
            raise fail(errno.EINVAL)
        if last > _LAST:
            raise fail(errno.EOVERFLOW)
        if not _inside(self.ranges(), first, last):
            raise fail(errno.EINVAL)
        if self._span(first, last) != (self._span(first, last)[0],) * 2:
            raise fail(errno.EEXIST)
        for area in areas:
            if area.flags & WRITE and not area.pages.writable:
                raise fail(errno.EPERM)
            if (area.pages.source.start + area.offset) % PAGE % self.alignment:
                raise fail(errno.EINVAL)
        done: list[Area] = []
        try:
            for area in areas if self.domains else ():
                area.use(self.domains)
                done.append(area)
        except OSError:
            for area in done:
                area.drop()
            raise
        index = bisect_left(self._starts, first)
        self._areas[index:index] = areas
        self._starts[index:index] = [area.iova for area in areas]

    def physical(self, iova: int, most: int) -> tuple[int, int]:
        """Where in physical memory an address lies, and how many bytes of its area behind it, most at most.

        Raises OSError(ENOENT) for a hole, OSError(EOPNOTSUPP) if a device with an IOMMU came first, or none.
        Source: drivers/iommu/iommufd/io_pagetable.c, iopt_get_phys.
        """
        index = bisect_right(self._starts, iova) - 1
        if index < 0 or self._areas[index].end <= iova:
            raise fail(errno.ENOENT)
        area = self._areas[index]
        if area.pin is None or not self.domains or not self.domains[0].tells_physical:
            raise fail(errno.EOPNOTSUPP)
        address, length = self._memory.physical(area.pin, area.offset + iova - area.iova)
        return address, min(length, area.end - iova, most)

    def find_room(self, source: int, size: int) -> int:
        """An address for size bytes that keeps the alignment of source. Raises OSError(ENOSPC)."""
        if size >= _LAST // 2:
            raise fail(errno.EOVERFLOW)
        alignment = min(1 << (size - 1).bit_length(), source & -source or _HUGE_PAGE, _HUGE_PAGE)
        if alignment < self.alignment:
            raise fail(errno.EINVAL)
        for first, last in self.allowed or [(PAGE, _LAST - PAGE)]:
            for free, free_last in self._holes(max(first, PAGE), min(last, _LAST - PAGE)):
                start = (-(-free // alignment) * alignment) | source % PAGE
                if start + size - 1 <= free_last:
                    return start
        raise fail(errno.ENOSPC)

    def unmap(self, first: int, last: int) -> tuple[int, int]:
        """Unmap the areas from first to last: how many bytes are gone, and the errno of what stopped it, 0 for nothing.

        It stops at an area that is in use, EBUSY, and at one that reaches over an end of the range, ENOENT.
        """
        start, stop = self._span(first, last)
        gone = code = 0
        index = start
        while index < stop:
            area = self._areas[index]
            if any(begin < area.end and area.iova <= end for begin, end in self.locked):
                code = errno.EBUSY
            elif area.iova < first or area.end - 1 > last:
                code = errno.ENOENT
            if code:
                break
            gone += area.size
            if self.domains:
                area.drop()
            for domain in self.domains:
                if domain.dirty:
                    domain.dirty.difference_update(range(area.iova // PAGE, -(-area.end // PAGE)))
            index += 1
        del self._areas[start:index], self._starts[start:index]
        return gone, code

    def unmap_range(self, iova: int, length: int) -> tuple[int, int]:
        """As unmap(), for length bytes from iova. Raises OSError as iopt_unmap_iova does for a range that is wrong."""
        if not length:
            raise fail(errno.EINVAL)
        if iova + length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        return self.unmap(iova, iova + length - 1)

    def cut(self, iova: int) -> None:
        """Split the area that spans iova there, if one does."""
        index = bisect_right(self._starts, iova) - 1
        if index < 0 or not self._areas[index].iova < iova < self._areas[index].end:
            return
        area = self._areas[index]
        head = iova - area.iova
        parts = [
            replace(area, size=head),
            replace(area, iova=iova, size=area.size - head, offset=area.offset + head),
        ]
        if self.domains:
            for part in parts:
                part.use(self.domains)
            area.drop()
        self._areas[index : index + 1] = parts
        self._starts.insert(index + 1, iova)

    def slices(self, first: int, last: int) -> list[Area]:
        """The areas of a range, cut to it. Raises OSError(ENOENT) for a hole."""
        start, stop = self._span(first, last)
        cuts = []
        for area in self._areas[start:stop]:
            begin, end = max(area.iova, first), min(area.end, last + 1)
            cuts.append(replace(area, iova=begin, size=end - begin, offset=area.offset + begin - area.iova))
        if sum(area.size for area in cuts) != last - first + 1:
            raise fail(errno.ENOENT)
        return cuts

    def destroy(self) -> None:
        self.unmap(0, _LAST)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        index = bisect_right(self._starts, first) - 1
        if index < 0 or self._areas[index].end <= first:
            index += 1
        return index, max(index, bisect_right(self._starts, last))

    def _holes(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of a range that no device reserves and no area takes."""
        holes = []
        for start, end in self.ranges():
            position, end = max(start, first), min(end, last)
            index, stop = self._span(position, end)
            for area in self._areas[index:stop]:
                if position < area.iova:
                    holes.append((position, area.iova - 1))
                position = area.end
            if position <= end:
                holes.append((position, end))
        return holes


def _inside(ranges: tuple[tuple[int, int], ...], first: int, last: int) -> bool:
    return any(start <= first and last <= end for start, end in ranges)
