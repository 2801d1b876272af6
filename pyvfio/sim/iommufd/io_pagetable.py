"""IO address spaces of iommufd: areas, the pages under them, what devices reserve.

Source: drivers/iommu/iommufd/io_pagetable.c and pages.c.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.iommu import ALL_ADDRESSES, Span, common
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.mm.pin import Pin
from pyvfio.sim.process.charges import Account
from pyvfio.sim.process.user import fail

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.mm.pinning import Pinning
    from pyvfio.sim.process.process import Process

PAGE = 4096
_HUGE_PAGE = 2 << 20
_LAST = (1 << 64) - 1
READ, WRITE = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE


@dataclass(frozen=True, slots=True)
class Source:
    """Where pages come from: an address of a process, or an offset in a file, which is known by device and inode.

    process: the one that has mapped them, whose limit they are charged against.
    """

    process: Process
    start: int
    size: int
    file: tuple[int, int] | None = None


class PageSet:
    """The pages of one map call: pinned while any address space with a domain maps some of them, and charged as far as
    one does, once."""

    def __init__(self, kernel: SimKernel, source: Source, *, writable: bool, per_process: bool) -> None:
        self._kernel = kernel
        is_exempt = source.process.charges.exempt
        self._account = Account.NONE if is_exempt else Account.PROCESS if per_process else Account.USER
        self._used: list[tuple[int, int]] = []
        self.source = source
        self.writable = writable
        self.pin: Pin | None = None

    def use(self, offset: int, size: int) -> None:
        """Raises OSError(EFAULT) where no page can be had, OSError(ENOMEM) beyond the limit."""
        if self.pin is None:
            self.pin = self._kernel.pinning.for_iommufd(self.source, self._account, write=self.writable)
        self._used.append((offset, size))
        self._kernel.pinning.recharge_iommufd(self.pin, self.source.process, self._account, _covered(self._used))

    def drop(self, offset: int, size: int) -> None:
        """What use() was called with."""
        self._used.remove((offset, size))
        if self.pin is not None:
            self._kernel.pinning.recharge_iommufd(self.pin, self.source.process, self._account, _covered(self._used))
            if not self._used:
                self._kernel.pinning.release_iommufd(self.pin, self.source.process, self._account)
                self.pin = None

    def charge_for(self, process: Process) -> tuple[Account, int]:
        """Which account, and how many bytes process would be charged with if the pages were its own."""
        is_moved = self._account is not Account.NONE and self.source.process is not process
        return self._account, self.pin.charged if self.pin is not None and is_moved else 0

    def hand_over(self, process: Process) -> None:
        """process has been charged."""
        self.source.process.charges.unpin(*self.charge_for(process))
        self.source = replace(self.source, process=process)


def change_process(pages: Collection[PageSet], process: Process) -> None:
    """Pages in files are process's from now on. Raises OSError(ENOMEM); nothing has changed then.

    For a moment both processes are charged, so what is counted for the user must have room for the pages twice.
    """
    charged: list[tuple[Account, int]] = []
    try:
        for each in pages:
            process.charges.pin(*each.charge_for(process))
            charged.append(each.charge_for(process))
    except OSError:
        for account, size in charged:
            process.charges.unpin(account, size)
        raise
    for each in pages:
        each.hand_over(process)


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
        """The domains hold it. Raises OSError as PageSet.use does, and what their drivers raise."""
        self.pages.use(self.offset, self.size)
        if not self.flags and not all(domain.maps_for_nothing for domain in domains):
            self.drop()
            raise fail(errno.EINVAL)

    def drop(self) -> None:
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
    """One address space. domains: of the page tables that hold its areas; with none, nothing is pinned. The first is
    asked where pages lie.

    locked: addresses that hardware queues use, first and last of each: they stay mapped as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[int] = []
        self._areas: list[Area] = []
        self.domains: list[Domain] = []
        self.locked: list[Span] = []
        self.large_pages = True
        self.allowed: list[tuple[int, int]] = []

    @property
    def alignment(self) -> int:
        unit = PAGE if self.locked or not self.large_pages else 1
        return max(unit, *(domain.alignment for domain in self.domains), 1)

    @property
    def areas(self) -> tuple[Area, ...]:
        """Ascending."""
        return tuple(self._areas)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What no device reserves: first and last of each."""
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
        """Where what is mapped from iova on without a hole ends; iova if nothing is."""
        for area in self._areas[max(bisect_right(self._starts, iova) - 1, 0) :]:
            if not area.iova <= iova < area.end:
                break
            iova = area.end
        return iova

    def add_domain(self, domain: Domain) -> None:
        """A page table more. Raises OSError(EADDRINUSE) for what it cannot hold, and what pinning raises."""
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
        # The last takes its place: the kernel leaves no gap.
        self.domains[self.domains.index(domain)] = self.domains[-1]
        self.domains.pop()
        if not self.domains:
            for area in self._areas:
                area.drop()

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

    def physical(self, pinning: Pinning, iova: int, most: int) -> tuple[int, int]:
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
        address, length = pinning.physical_range(area.pin, area.offset + iova - area.iova)
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
        """Take areas off until one is in use, EBUSY, or reaches over an end, ENOENT: the bytes that are gone, and that
        or 0."""
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
        """The same, with the range checked as iopt_unmap_iova does."""
        if not length:
            raise fail(errno.EINVAL)
        if iova + length - 1 > _LAST:
            raise fail(errno.EOVERFLOW)
        return self.unmap(iova, iova + length - 1)

    def cut(self, iova: int) -> None:
        """Let an area that spans iova end before it."""
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

    def release(self) -> None:
        """The address space is destroyed, or its iommufd closed."""
        self.unmap(0, _LAST)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        index = bisect_right(self._starts, first) - 1
        if index < 0 or self._areas[index].end <= first:
            index += 1
        return index, max(index, bisect_right(self._starts, last))

    def _holes(self, first: int, last: int) -> list[tuple[int, int]]:
        """What neither a device reserves nor an area takes."""
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


def _covered(ranges: list[tuple[int, int]]) -> int:
    """Bytes that lie in any of the ranges of (offset, size)."""
    covered = reached = 0
    for offset, size in sorted(ranges):
        covered += max(0, offset + size - max(offset, reached))
        reached = max(reached, offset + size)
    return covered


def _inside(ranges: tuple[tuple[int, int], ...], first: int, last: int) -> bool:
    return any(start <= first and last <= end for start, end in ranges)
