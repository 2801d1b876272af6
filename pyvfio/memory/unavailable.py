"""Why the host does not give memory: address space, huge pages, or memory at all."""

from __future__ import annotations

import errno
import resource
from contextlib import suppress
from typing import Protocol

from pyvfio.errors import MemoryUnavailable, VfioError
from pyvfio.explain import no_descriptor
from pyvfio.kernel import Kernel, huge_page_sizes, huge_pages, text_or_empty
from pyvfio.memory.kinds import MemoryKind
from pyvfio.texts import lines_of, number_of, words_of

MOST_INTERRUPTIONS = 100
"""After so many interrupted tries in a row, populating gives up."""

_ALLOCATE = "allocate memory"


class Populated(Protocol):
    """What an explanation needs of a Memory."""

    kernel: Kernel
    kind: MemoryKind
    page_size: int

    def resident(self, offset: int, size: int) -> int:
        """How many bytes of the range have a page in memory."""


def unavailable(error: OSError, memory: Populated, operation: str, offset: int, size: int) -> VfioError:
    """The kernel's refusal to give memory, in words. operation: "allocate memory" or "populate"."""
    code = error.errno or errno.EIO
    arguments = {"size": size} if operation == _ALLOCATE else {"offset": offset, "size": size}
    if no_file := no_descriptor(code):
        return VfioError(code, operation, arguments, *no_file)
    return MemoryUnavailable(code, operation, arguments, *_reason(code, memory, operation, offset, size))


def _reason(code: int, memory: Populated, operation: str, offset: int, size: int) -> tuple[str, str]:
    if code == errno.EINTR:
        return (
            f"signals interrupted it {MOST_INTERRUPTIONS} times, and it never came to its end",
            "Populate less at a time",
        )
    is_allocated = operation != _ALLOCATE
    if code == errno.ENOMEM and not is_allocated and (limited := _limited(memory.kernel, size)):
        return limited
    if memory.kind.is_hugetlb:
        return _no_huge_pages(memory, operation, offset, size)
    if code == errno.ENOMEM and not is_allocated:
        return _no_addresses(memory.kernel)
    return "the host, or this process's memory cgroup, has no memory left for it" if code == errno.ENOMEM else "", ""


def _limited(kernel: Kernel, size: int) -> tuple[str, str] | None:
    """That a limit of this process keeps it from having that many addresses more; None if it does not."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or _address_space(kernel) + size <= limit:
        return None
    return (
        f"RLIMIT_AS lets this process have {limit:#_x} bytes of addresses in all",
        "Raise it: ulimit -v, LimitAS= or prlimit --as",
    )


def _no_addresses(kernel: Kernel) -> tuple[str, str]:
    """Why the kernel reserves no addresses. Nothing else is taken: pages come, and are charged, when populated.

    Source: mm/mmap.c; Documentation/mm/overcommit-accounting.rst.
    """
    if text_or_empty(kernel, "/proc/sys/vm/overcommit_memory") == "2":
        return (
            "this process has no such range of addresses free, or the host has promised as much memory as it may",
            "As root: sysctl vm.overcommit_memory=0, or raise vm.overcommit_ratio",
        )
    return "this process has no such range of addresses free", "Ask for less, or close memory that is not used"


def _address_space(kernel: Kernel) -> int:
    """How many bytes of addresses this process has in use; 0 if it cannot be read."""
    lines = map(words_of, lines_of(text_or_empty(kernel, "/proc/self/status")))
    return next(((number_of(words[1]) or 0) << 10 for words in lines if words[1:] and words[0] == "VmSize:"), 0)


def _no_huge_pages(memory: Populated, operation: str, offset: int, size: int) -> tuple[str, str]:
    needed = size // memory.page_size
    meaning = f"{needed} huge pages of {memory.page_size >> 10} KiB needed"
    try:
        sizes = huge_page_sizes(memory.kernel)
        pool = huge_pages(memory.page_size, memory.kernel)
    except OSError:
        # Explaining a failure must not become one.
        return meaning, ""
    if memory.page_size not in sizes:
        there = ", ".join(f"{size >> 10} KiB" for size in sizes) or "none"
        return f"{meaning}; the sizes that this host has: {there}", ""
    short = needed - _resident_pages(memory, operation, offset, size) - pool.free
    if short <= 0:
        meaning += f", and {pool.free} of {pool.total} are free: not to this process"
        advice = "Raise the limit of its cgroup (hugetlb.*.max), or let it use more NUMA nodes (numactl, cpuset)"
    else:
        meaning += f", {pool.free} of {pool.total} free" + (f" to this process ({pool.bound})" if pool.bound else "")
        advice = pool.way_out(pool.free + short)
        advice = advice[0].upper() + advice[1:]
    return meaning, advice


def _resident_pages(memory: Populated, operation: str, offset: int, size: int) -> int:
    """How many pages of the range are there already. Explaining a failure must not become one."""
    with suppress(OSError):
        return memory.resident(offset, size) // memory.page_size if operation == "populate" else 0
    return 0
