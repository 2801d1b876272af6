"""plan(): whether a region fits the limits of a host, and which block size would fit, before anything is opened.

A plan is for the worst case, with everything plugged. What is enforced at run time is what exists then: a block that
does not fit is BUSY to the guest, with the limit's name in the log, and all other blocks stay as they are.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

from pyvfio.kernel import (
    HugePages,
    Kernel,
    LinuxKernel,
    Memlock,
    dma_entry_limit,
    host_page_size,
    huge_pages,
    memlock,
    transparent_huge_page_size,
)
from pyvfio.units import format_size
from virtiomem.device import check_block_size, check_region, check_requested_size, default_block_size


class Limit(enum.StrEnum):
    """What a region may run short of."""

    MAPPINGS = "mappings"
    """DMA mappings in each address space: each plugged block takes one."""
    MEMLOCK = "memlock"
    """Bytes of RLIMIT_MEMLOCK: every address space pins all that is plugged, and is charged for it."""
    HUGE_PAGES = "hugepages"
    """Pages of the host's pool of huge pages."""


class Verdict(enum.StrEnum):
    """Whether a limit suffices."""

    OK = "OK"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host has to give.

    mappings: how many each address space takes; None without a limit (iommufd). memlock: what may be pinned.
    huge_pages: the pool that backs the memory; None for memory of ordinary pages. transparent_huge_page_size: bytes;
    None where there are none.
    """

    mappings: int | None
    memlock: Memlock
    huge_pages: HugePages | None = None
    transparent_huge_page_size: int | None = None

    @classmethod
    def of_host(cls, *, page_size: int | None = None, kernel: Kernel | None = None) -> Self:
        """The limits of this process on this host, for type1 containers that are opened from now on.

        page_size: bytes of a page of hugetlb memory; None for ordinary pages. kernel: the host's (default: Linux).
        """
        kernel = kernel or LinuxKernel()
        return cls(
            mappings=dma_entry_limit(kernel),
            memlock=memlock(kernel),
            huge_pages=None if page_size is None else huge_pages(page_size, kernel),
            transparent_huge_page_size=transparent_huge_page_size(kernel),
        )

    @property
    def page_size(self) -> int:
        """Bytes of a page of the memory."""
        return host_page_size() if self.huge_pages is None else self.huge_pages.page_size


@dataclass(frozen=True, slots=True)
class Row:
    """How a plan fares with one limit.

    need, available: mappings, bytes or pages, without those that others use; available is None without a limit.
    verdict: whether it suffices. fix: what to do if it does not; empty otherwise.
    """

    limit: Limit
    need: int
    available: int | None
    verdict: Verdict
    fix: str = ""

    @property
    def fits(self) -> bool:
        """Whether the limit suffices."""
        return self.verdict is Verdict.OK


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes to plug plugged_size bytes of a region of region_size bytes, in blocks of block_size bytes.

    address_spaces: how many the region is mapped into. rows: one for each limit. fitting_block_size: the smallest block
    size in bytes with which the mappings suffice and which divides the region; None if there is none.
    """

    region_size: int
    plugged_size: int
    block_size: int
    address_spaces: int
    rows: tuple[Row, ...]
    fitting_block_size: int | None

    @property
    def fits(self) -> bool:
        """Whether every limit suffices."""
        return all(row.fits for row in self.rows)

    @property
    def conclusion(self) -> str:
        """Whether it fits, and what would, in a sentence."""
        if self.fits:
            spaces = f" in each of {self.address_spaces} address spaces" if self.address_spaces > 1 else ""
            mappings = f", {self._mappings(self.block_size)} mappings{spaces}" if self.address_spaces else ""
            return f"fits with blocks of {format_size(self.block_size)}{mappings}"
        short = [row for row in self.rows if not row.fits]
        others = " and ".join(row.limit for row in short if row.limit is not Limit.MAPPINGS)
        if short[0].limit is not Limit.MAPPINGS:
            return f"does not fit: too little {others}"
        also = f", but {others} would still be short" if others else ""
        fitting = self.fitting_block_size
        if fitting is None:
            return f"does not fit with any size of blocks that divides {format_size(self.region_size)}{also}"
        smaller, available = fitting // 2, short[0].available
        reason = ""
        if smaller >= self.block_size and available is not None:
            excess = self._mappings(smaller) - available
            count = "one" if excess == 1 else str(excess)
            reason = f"; {format_size(smaller)} would need {self._mappings(smaller)}, {count} too many"
        return (
            f"does not fit; with {format_size(fitting)} blocks it does "
            f"({self._mappings(fitting)} mappings{reason}){also}"
        )

    def _mappings(self, block_size: int) -> int:
        return -(-self.plugged_size // block_size)


def plan(
    region_size: int,
    *,
    limits: Limits,
    block_size: int | None = None,
    plugged_size: int | None = None,
    address_spaces: int = 1,
    other_mappings: int = 0,
) -> Plan:
    """Plan plugged_size bytes (default: all) of a region of region_size bytes, mapped into so many address spaces.

    limits: what the host has. block_size: bytes; default: the smallest worth having with which the mappings suffice.
    other_mappings: how many each address space holds besides: other regions, a guest IOMMU's own, staging buffers.

    Raises InvalidArgument for sizes that no device would take.
    """
    page_size = limits.page_size
    smallest = default_block_size(page_size, limits.transparent_huge_page_size, host_page_size())
    plugged = region_size if plugged_size is None else plugged_size
    available = None if limits.mappings is None or not address_spaces else max(limits.mappings - other_mappings, 0)
    fitting = fitting_block_size(region_size, plugged, available, smallest=block_size or smallest)
    block_size = block_size or fitting or smallest
    check_block_size(block_size, page_size)
    check_region(0, 0, region_size, block_size, region_size)
    check_requested_size(plugged, region_size, block_size)
    rows = [
        _mappings_row(-(-plugged // block_size), available, other_mappings, fitting),
        _memlock_row(plugged * address_spaces, limits.memlock),
    ]
    if limits.huge_pages is not None:
        rows.append(_huge_pages_row(plugged, limits.huge_pages))
    return Plan(region_size, plugged, block_size, address_spaces, tuple(rows), fitting)


def fitting_block_size(region_size: int, plugged_size: int, mappings: int | None, *, smallest: int) -> int | None:
    """The smallest block size in bytes, from smallest on, with which the mappings suffice; None if there is none.

    It is smallest times a power of two, divides region_size, and cuts plugged_size bytes into at most as many blocks as
    there are mappings. mappings: None without a limit.
    """
    block_size = smallest
    while block_size <= region_size and region_size % block_size == 0:
        if mappings is None or -(-plugged_size // block_size) <= mappings:
            return block_size
        block_size *= 2
    return None


def _mappings_row(need: int, available: int | None, others: int, fitting: int | None) -> Row:
    limit = f"dma_entry_limit={need + others} of vfio_iommu_type1 before the container is opened"
    fix = f"blocks of {format_size(fitting)} or more, or {limit}" if fitting else limit
    return _row(Limit.MAPPINGS, need, available, fix)


def _memlock_row(need: int, lock: Memlock) -> Row:
    available = None if lock.exempt or lock.limit is None else max(lock.limit - lock.charged, 0)
    limit = lock.charged + need
    fix = f"RLIMIT_MEMLOCK of {limit:#_x}: ulimit -l {-(-limit // 1024)}, LimitMEMLOCK={limit}, or prlimit"
    return _row(Limit.MEMLOCK, need, available, fix)


def _huge_pages_row(size: int, pool: HugePages) -> Row:
    need = -(-size // pool.page_size)
    fix = f"as root: echo {pool.total - pool.free + need} > {pool.setting}"
    return _row(Limit.HUGE_PAGES, need, pool.free, fix)


def _row(limit: Limit, need: int, available: int | None, fix: str) -> Row:
    """fix: what to do about it, should need be more than is available."""
    if available is None or need <= available:
        return Row(limit, need, available, Verdict.OK)
    return Row(limit, need, available, Verdict.FAIL, fix)
