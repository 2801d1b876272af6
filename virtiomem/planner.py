"""plan(): whether a region fits the limits of a host, and which block size would fit, before anything is opened.

A plan is for the worst case, with everything plugged. What is enforced at run time is what exists then: a block that
does not fit is BUSY to the guest, with the limit's name in the log, and all other blocks stay as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pyvfio.host import DeviceAddresses, device_addresses
from pyvfio.kernel import (
    HostMemory,
    HugePages,
    Kernel,
    LinuxKernel,
    Memlock,
    dma_entry_limit,
    host_memory,
    host_page_size,
    huge_page_sizes,
    huge_pages,
    memlock,
    transparent_huge_page_size,
)
from pyvfio.units import format_size, size_in_words
from virtiomem.device import (
    MINIMUM_BLOCK_SIZE,
    check_block_size,
    check_region,
    check_requested_size,
    default_block_size,
)

_FIRST_ADDRESS = 1 << 32
"""Where the search for another address for a region begins: below 4 GiB is what a machine has always had there."""


class Limit(enum.StrEnum):
    """What a region may run short of."""

    MAPPINGS = "mappings"
    """DMA mappings in each address space: each plugged block takes one."""
    MEMLOCK = "memlock"
    """Bytes of RLIMIT_MEMLOCK: every address space pins all that is plugged, and is charged for it."""
    HUGE_PAGES = "hugepages"
    """Pages of the host's pool of huge pages."""
    MEMORY = "memory"
    """Bytes of the host's memory: what is plugged cannot be paged out."""
    ADDRESSES = "addresses"
    """Addresses: devices need the region clear of what their groups reserve, and within what the IOMMU translates."""


class Verdict(enum.StrEnum):
    """Whether a limit suffices."""

    OK = "OK"
    WARN = "WARN"
    """It suffices now, but only just, or only if the host still finds what it has promised."""
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host has to give.

    mappings: how many each address space takes; None without a limit (iommufd). memlock: what may be pinned.
    huge_pages: the pool that backs the memory; None for memory of ordinary pages. transparent_huge_page_size: bytes;
    None where there are none. memory: how much memory can be had; None if it is not known. addresses: the addresses
    that devices can be given; None if they are not known. huge_page_sizes: the sizes in bytes that the host has pools
    of; empty if they are not known.
    """

    mappings: int | None
    memlock: Memlock
    huge_pages: HugePages | None = None
    transparent_huge_page_size: int | None = None
    memory: HostMemory | None = None
    addresses: DeviceAddresses | None = None
    huge_page_sizes: tuple[int, ...] = ()

    @classmethod
    def of_host(
        cls,
        *,
        page_size: int | None = None,
        kernel: Kernel | None = None,
        node: int | None = None,
        devices: Sequence[str] = (),
    ) -> Self:
        """The limits of this process on this host, for type1 containers that are opened from now on.

        page_size: bytes of a page of hugetlb memory; None for ordinary pages. kernel: the host's (default: Linux).
        node: the NUMA node that all memory is to come from; None for any. devices: the PCI addresses of the devices
        that the memory is mapped for (default: those that are bound to a VFIO driver).
        """
        kernel = kernel or LinuxKernel()
        return cls(
            memory=host_memory(kernel, node=node),
            addresses=device_addresses(kernel, devices),
            huge_page_sizes=tuple(huge_page_sizes(kernel)),
            mappings=dma_entry_limit(kernel),
            memlock=memlock(kernel),
            huge_pages=None if page_size is None else huge_pages(page_size, kernel, node=node),
            transparent_huge_page_size=transparent_huge_page_size(kernel),
        )

    @property
    def page_size(self) -> int:
        """Bytes of a page of the memory."""
        return host_page_size() if self.huge_pages is None else self.huge_pages.page_size


@dataclass(frozen=True, slots=True)
class Row:
    """How a plan fares with one limit.

    need, available: mappings, bytes or pages, without those that others use; available is None without a limit. For
    addresses they are where the region is to begin, and where it could; available is None if it could nowhere.
    verdict: whether the limit suffices. fix: what to do about it; empty if nothing has to be done. found: what there
    is, in words, if the numbers do not tell it; otherwise empty.
    """

    limit: Limit
    need: int
    available: int | None
    verdict: Verdict
    fix: str = ""
    found: str = ""

    @property
    def fits(self) -> bool:
        """Whether the limit suffices."""
        return self.verdict is not Verdict.FAIL


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes to plug plugged_size bytes of a region of region_size bytes, in blocks of block_size bytes.

    address_spaces: how many the region is mapped into. rows: one for each limit. fitting_block_size: the smallest block
    size in bytes with which the mappings suffice and which divides the region; None if there is none. notes: sentences
    about what works, but not as well as it could.
    """

    region_size: int
    plugged_size: int
    block_size: int
    address_spaces: int
    rows: tuple[Row, ...]
    fitting_block_size: int | None
    notes: tuple[str, ...] = ()

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
            tight = [row.limit for row in self.rows if row.verdict is Verdict.WARN]
            close = f"; tight: {' and '.join(tight)}" if tight else ""
            return f"fits with blocks of {format_size(self.block_size)}{mappings}{close}"
        short = [row for row in self.rows if not row.fits]
        others = " and ".join(row.limit for row in short if row.limit not in (Limit.MAPPINGS, Limit.ADDRESSES))
        place = "" if all(row.limit is not Limit.ADDRESSES for row in short) else "it cannot be at this address"
        if short[0].limit is not Limit.MAPPINGS:
            reasons = [f"too little {others}"] if others else []
            return f"does not fit: {', and '.join([*reasons, *([place] if place else [])])}"
        also = f", but {others} would still be short" if others else ""
        also += f", and {place}" if place else ""
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
    address: int | None = None,
) -> Plan:
    """Plan plugged_size bytes (default: all) of a region of region_size bytes, mapped into so many address spaces.

    limits: what the host has. block_size: bytes; default: the smallest worth having with which the mappings suffice and
    which divides the region. other_mappings: how many each address space holds besides: other regions, a guest IOMMU's
    own, staging buffers. address: the guest-physical address where the region is to begin; None if that is open.

    Raises InvalidArgument for sizes that no device would take.
    """
    page_size = limits.page_size
    plugged = region_size if plugged_size is None else plugged_size
    preferred = default_block_size(page_size, limits.transparent_huge_page_size, host_page_size())
    smallest = largest_divisor(preferred, max(page_size, MINIMUM_BLOCK_SIZE), region_size, plugged)
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
        rows.append(_huge_pages_row(plugged, limits.huge_pages, limits.huge_page_sizes))
    if limits.memory is not None:
        rows += _memory_rows(plugged, limits.memory, limits.huge_pages)
    if address is not None and address_spaces:
        rows += address_rows(address, region_size, block_size, limits.addresses)
    notes = (_too_small(block_size, preferred),) if block_size < preferred else ()
    return Plan(region_size, plugged, block_size, address_spaces, tuple(rows), fitting, notes)


def largest_divisor(preferred: int, smallest: int, *sizes: int) -> int:
    """preferred, halved until it divides all sizes, but not below smallest. All are bytes."""
    block_size = preferred
    while block_size > smallest and any(size % block_size for size in sizes):
        block_size //= 2
    return block_size


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


def _huge_pages_row(size: int, pool: HugePages, sizes: tuple[int, ...]) -> Row:
    need = -(-size // pool.page_size)
    if sizes and pool.page_size not in sizes:
        there = " or ".join(f"hugetlb:{format_size(each).replace(' ', '').removesuffix('iB')}" for each in sizes)
        found = f"this host has no huge pages of {format_size(pool.page_size)}"
        return Row(Limit.HUGE_PAGES, need, 0, Verdict.FAIL, f"take {there}", found)
    fix, available = pool.way_out(need), pool.free + pool.more
    if pool.free < need <= available:
        found = f"{need} needed, {pool.free} available and {pool.more} more if memory is in one piece"
        return Row(Limit.HUGE_PAGES, need, available, Verdict.WARN, f"to be sure, {fix}", found)
    row = _row(Limit.HUGE_PAGES, need, available, fix)
    return replace(row, found=f"{need} needed, {available} available ({pool.bound})") if pool.bound else row


def _memory_rows(size: int, memory: HostMemory, pool: HugePages | None) -> Iterator[Row]:
    """The row of the host's memory, if any is taken: a pool's free pages take none, those still to be made do."""
    need = size if pool is None else max(size - pool.free * pool.page_size, 0)
    if pool is not None and need > pool.more * pool.page_size:
        return
    found = f"{format_size(need)} needed, {size_in_words(memory.available)} available ({memory.bound})"
    if need > memory.available:
        fix = f"{size_in_words(memory.available)} at most; or {memory.way_out}"
        yield Row(Limit.MEMORY, need, memory.available, Verdict.FAIL, fix, found)
    elif need and (strain := memory.strain(need))[0]:
        yield Row(Limit.MEMORY, need, memory.available, Verdict.WARN, ": ".join(strain), found)
    elif need:
        yield Row(Limit.MEMORY, need, memory.available, Verdict.OK, "", found)


def address_rows(address: int, size: int, block_size: int, addresses: DeviceAddresses | None) -> Iterator[Row]:
    """The row of a region of size bytes that is to begin at address: whether it can, and if not, where it could.

    addresses: those that the devices can be given; None if they are not known: then a region that can is no row.
    """
    there = addresses or DeviceAddresses((), None)
    last = address + size - 1
    found = f"{address:#x}-{last:#x}"
    obstacle = there.obstacle(address, last)
    if address % block_size == 0 and obstacle is None and there.reaches(last) and last < 1 << 64:
        known = "" if addresses is None else ", clear of what is reserved"
        known += f", within {there.width} bits" if there.width else ""
        if addresses is not None:
            yield Row(Limit.ADDRESSES, address, address, Verdict.OK, "", found + known)
        return
    fitting = there.fitting(size, max(address, _FIRST_ADDRESS), block_size)
    if fitting is None:
        fitting = there.fitting(size, _FIRST_ADDRESS, block_size)
    if obstacle is not None:
        found += f" runs into {obstacle}"
    elif not there.reaches(last) or last >= 1 << 64:
        found += f" is beyond the {there.width or 64} bits that are translated"
    else:
        found += f" does not begin at a multiple of {format_size(block_size)}"
    if fitting is None:
        fix = f"a region of {size_in_words(there.largest(_FIRST_ADDRESS, block_size))} at most fits anywhere"
    else:
        fix = f"--address {fitting:#x}"
    yield Row(Limit.ADDRESSES, address, fitting, Verdict.FAIL, fix, found)


def _too_small(block_size: int, preferred: int) -> str:
    return (
        f"blocks of {format_size(block_size)} are smaller than transparent huge pages, {format_size(preferred)}: "
        "memory is plugged in smaller pages, which takes longer"
    )


def _row(limit: Limit, need: int, available: int | None, fix: str) -> Row:
    """fix: what to do about it, should need be more than is available."""
    if available is None or need <= available:
        return Row(limit, need, available, Verdict.OK)
    return Row(limit, need, available, Verdict.FAIL, fix)
