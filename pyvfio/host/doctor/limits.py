"""Checks of how much may be pinned and mapped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.needs import Needs
from pyvfio.kernel import DMA_ENTRY_LIMIT, HugePages, Kernel, dma_entry_limit, huge_pages, memlock, names_in, read_text
from pyvfio.units import format_size

_POOLS = "/sys/kernel/mm/hugepages"
_NODES = "/sys/devices/system/node"
_LITTLE = 64 << 20


def check_memlock(kernel: Kernel, needs: Needs) -> Check:
    """Whether RLIMIT_MEMLOCK of this process allows what is to be mapped: each address space counts all of it."""
    lock = memlock(kernel)
    wanted = needs.memory * needs.address_spaces
    limit = "unlimited" if lock.limit is None else format_size(lock.limit)
    found = f"{limit}, not tested with CAP_IPC_LOCK" if lock.exempt and lock.limit is not None else limit
    if lock.charged:
        found += f", {format_size(lock.charged)} in use"
    if wanted:
        found += f"; {format_size(wanted)} wanted"
        if needs.address_spaces > 1:
            found += f" by {needs.address_spaces} address spaces"
    fix = f"ulimit -l {-(-(lock.charged + max(wanted, _LITTLE)) // 1024)}, LimitMEMLOCK= in systemd, or limits.conf"
    if not lock.allows(wanted):
        return Check("memlock", Status.FAIL, found, fix)
    if not wanted and not lock.allows(_LITTLE):
        return Check("memlock", Status.WARN, f"{found}: too little for more than a few buffers", fix)
    return Check("memlock", Status.OK, found)


def check_mapping_limit(kernel: Kernel, needs: Needs) -> Check:
    """Whether dma_entry_limit allows as many mappings as there are blocks."""
    limit = dma_entry_limit(kernel)
    wanted = -(-needs.memory // needs.block_size)
    blocks = f"{wanted} wanted for blocks of {format_size(needs.block_size)}"
    reach = f"{limit * needs.block_size >> 30} GiB in blocks of {format_size(needs.block_size)}"
    found = f"{limit} for each container; " + (blocks if needs.memory else reach)
    if wanted <= limit:
        return Check("mapping limit", Status.OK, found)
    fitting = needs.block_size
    while -(-needs.memory // fitting) > limit:
        fitting *= 2
    fix = f"blocks of {format_size(fitting)}, or as root: echo {wanted} > {DMA_ENTRY_LIMIT}"
    return Check("mapping limit", Status.FAIL, found, fix)


def check_huge_pages(kernel: Kernel, needs: Needs) -> Iterator[Check]:
    """Whether the pools have the huge pages, for each page size."""
    sizes = _sizes(kernel, _POOLS)
    if needs.huge_page_size and needs.huge_page_size not in sizes:
        yield Check(
            f"huge pages {format_size(needs.huge_page_size)}",
            Status.FAIL,
            "this kernel has none of the size",
            f"one of {', '.join(map(format_size, sizes)) or 'none'}",
        )
    for size in sizes:
        pool = huge_pages(size, kernel)
        wanted = -(-needs.memory // size) if needs.huge_page_size == size else 0
        nodes = ", ".join(f"node {node}: {free} of {total}" for node, total, free in _per_node(kernel, size))
        found = f"{pool.free} of {pool.total} free" + (f" ({nodes})" if nodes and pool.total else "")
        if wanted:
            found += f"; {wanted} wanted"
        short = wanted > pool.free
        fix = f"as root: {_grow(pool, wanted)}" if short else ""
        yield Check(f"huge pages {format_size(size)}", Status.FAIL if short else Status.OK, found, fix)


def check_transparent_huge_pages(kernel: Kernel) -> Check:
    """Whether the kernel makes ordinary memory of huge pages, which are pinned many times faster."""
    try:
        mode = read_text(kernel, "/sys/kernel/mm/transparent_hugepage/enabled")
    except FileNotFoundError:
        return Check("transparent huge pages", Status.WARN, "not in this kernel", "use hugetlb memory for speed")
    chosen = re.search(r"\[(\w+)\]", mode)
    if chosen and chosen[1] != "never":
        return Check("transparent huge pages", Status.OK, chosen[1])
    fix = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return Check("transparent huge pages", Status.WARN, "never: pinning ordinary memory is slow", fix)


def _grow(pool: HugePages, wanted: int) -> str:
    return f"echo {pool.total + wanted - pool.free} > {pool.setting}"


def _sizes(kernel: Kernel, directory: str) -> list[int]:
    matches = (re.fullmatch(r"hugepages-(\d+)kB", name) for name in names_in(kernel, directory))
    return sorted(int(match[1]) << 10 for match in matches if match)


def _per_node(kernel: Kernel, size: int) -> Iterator[tuple[int, int, int]]:
    """The number of each NUMA node, and how many huge pages of size bytes it has in all and free."""
    for number in sorted(int(name[4:]) for name in names_in(kernel, _NODES) if re.fullmatch(r"node\d+", name)):
        directory = f"{_NODES}/node{number}/hugepages/hugepages-{size >> 10}kB"
        try:
            total, free = (int(read_text(kernel, f"{directory}/{name}_hugepages")) for name in ("nr", "free"))
        except OSError:
            continue
        yield number, total, free
