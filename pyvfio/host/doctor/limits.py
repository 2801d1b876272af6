"""Checks of how much may be pinned and mapped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.needs import Needs
from pyvfio.kernel import (
    DMA_ENTRY_LIMIT,
    Kernel,
    dma_entry_limit,
    host_memory,
    host_page_size,
    huge_page_sizes,
    huge_pages,
    huge_pages_by_node,
    memlock,
    read_text,
    transparent_huge_page_size,
)
from pyvfio.units import format_size, size_in_words

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


def check_memory(kernel: Kernel, needs: Needs) -> Iterator[Check]:
    """Whether the host has the memory that is to be mapped, and so cannot be paged out.

    There is no such check if the memory is of huge pages, which come from pools, or if the host does not say.
    """
    memory = None if needs.huge_page_size else host_memory(kernel)
    if memory is None:
        return
    found = f"{size_in_words(memory.available)} can be had ({memory.bound})"
    found += f"; {format_size(needs.memory)} wanted" if needs.memory else ""
    if needs.memory > memory.available:
        fix = f"{size_in_words(memory.available)} at most; or {memory.way_out}"
        yield Check("memory", Status.FAIL, found, fix)
    elif (strain := memory.strain(needs.memory))[0]:
        yield Check("memory", Status.WARN, f"{found}: {strain[0]}", strain[1])
    else:
        yield Check("memory", Status.OK, found)


def check_mapping_limit(kernel: Kernel, needs: Needs) -> Check:
    """Whether dma_entry_limit allows as many mappings as there are blocks."""
    limit, page = dma_entry_limit(kernel), host_page_size()
    if needs.block_size < 1 or needs.block_size % page:
        found = f"blocks of {format_size(needs.block_size)} are no whole pages of this kernel, {format_size(page)}"
        return Check("mapping limit", Status.FAIL, found, f"blocks of a multiple of {format_size(page)}")
    wanted = -(-needs.memory // needs.block_size)
    blocks = f"{wanted} wanted for blocks of {format_size(needs.block_size)}"
    reach = f"{size_in_words(limit * needs.block_size)} in blocks of {format_size(needs.block_size)}"
    found = f"{limit} for each container; " + (blocks if needs.memory else reach)
    if wanted <= limit:
        return Check("mapping limit", Status.OK, found)
    fix = f"as root: echo {wanted} > {DMA_ENTRY_LIMIT}"
    if limit:
        fitting = needs.block_size
        while -(-needs.memory // fitting) > limit:
            fitting *= 2
        fix = f"blocks of {format_size(fitting)}, or {fix}"
    return Check("mapping limit", Status.FAIL, found, fix)


def check_huge_pages(kernel: Kernel, needs: Needs) -> Iterator[Check]:
    """Whether the pools have the huge pages, for each page size."""
    sizes = huge_page_sizes(kernel)
    if needs.huge_page_size and needs.huge_page_size not in sizes:
        yield Check(
            f"huge pages {format_size(needs.huge_page_size)}",
            Status.FAIL,
            "this kernel has none of the size",
            f"one of {', '.join(map(format_size, sizes))}" if sizes else "a kernel with CONFIG_HUGETLBFS",
        )
    for size in sizes:
        yield _check_pool(kernel, size, -(-needs.memory // size) if needs.huge_page_size == size else 0)


def _check_pool(kernel: Kernel, size: int, wanted: int) -> Check:
    """Whether a pool has enough huge pages. size: bytes of one. wanted: how many pages are wanted."""
    name = f"huge pages {format_size(size)}"
    pool = huge_pages(size, kernel)
    by_node = huge_pages_by_node(size, kernel).items()
    nodes = ", ".join(f"node {node}: {free} of {total}" for node, (total, free) in by_node)
    found = f"{pool.free} of {pool.total} free" + (f" ({nodes})" if nodes and pool.total else "")
    found += f" to this process ({pool.bound})" if pool.bound else ""
    found += f", {pool.more} more when asked for" if pool.more else ""
    found += f"; {wanted} wanted" if wanted else ""
    fix = pool.way_out(wanted)
    if wanted > pool.free + pool.more:
        return Check(name, Status.FAIL, found, fix)
    if wanted > pool.free:
        found += ", of which the kernel has yet to make some, from memory in one piece"
        return Check(name, Status.WARN, found, f"to be sure of them, {fix}")
    return Check(name, Status.OK, found)


def check_transparent_huge_pages(kernel: Kernel) -> Check:
    """Whether the kernel makes ordinary memory of huge pages, which are pinned many times faster."""
    pages = f"ordinary pages are of {format_size(host_page_size())}"
    try:
        mode = read_text(kernel, "/sys/kernel/mm/transparent_hugepage/enabled")
    except FileNotFoundError:
        found = f"not in this kernel; {pages}"
        return Check("transparent huge pages", Status.WARN, found, "use hugetlb memory for speed")
    chosen = re.search(r"\[(\w+)\]", mode)
    size = transparent_huge_page_size(kernel)
    found = f"of {format_size(size)}, where {pages}" if size else pages
    if chosen and chosen[1] != "never":
        return Check("transparent huge pages", Status.OK, f"{chosen[1]}; {found}")
    fix = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return Check("transparent huge pages", Status.WARN, f"never: pinning ordinary memory is slow; {found}", fix)
