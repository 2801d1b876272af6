"""The limits of this process and this host: locked memory, mappings, huge pages."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pyvfio.errors import VfioError
from pyvfio.kernel.files import names_in, read_number, read_text, text_or_empty
from pyvfio.kernel.placement import NODES, control_groups, in_words, memory_nodes, numa_nodes
from pyvfio.kernel.seam import Kernel, LinuxKernel
from pyvfio.texts import lines_of, number_of, shortened, words_of

DMA_ENTRY_LIMIT = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
"""The file with the number of mappings that a container may hold; root can change it for containers opened later."""
DEFAULT_DMA_ENTRY_LIMIT = 65535
"""What the kernel sets if nobody chooses."""

POOLS = "/sys/kernel/mm/hugepages"
"""The directory with a directory for each size of huge pages."""

_COUNTS = ("nr", "free", "resv")
_OVERCOMMIT = "nr_overcommit_hugepages"
_CAP_IPC_LOCK = 14


@dataclass(frozen=True, slots=True)
class Memlock:
    """How much memory this process may lock, and how much it has locked. Sizes are bytes.

    limit: RLIMIT_MEMLOCK; None for unlimited. charged: what mlock() and the mappings of containers have locked; a page
    that is mapped twice counts twice. exempt: whether the process has CAP_IPC_LOCK, so that the kernel tests no limit.
    pinned: what iommufd has pinned, whether it is charged to this process or not.
    """

    limit: int | None
    charged: int
    exempt: bool
    pinned: int = 0

    def allows(self, size: int) -> bool:
        """Whether size bytes more can be locked."""
        return self.exempt or self.limit is None or self.charged + size <= self.limit


@dataclass(frozen=True, slots=True)
class HugePages:
    """The host's pool of huge pages of one size.

    page_size: bytes of a page. total: how many pages the pool has. free: how many are free, not reserved, and for this
    process to have. more: how many the kernel makes when they are asked for, if it finds that much memory in one piece
    then. bound: what keeps this process from others that are free: "node 1", "hugetlb.2MB.max of cgroup /jobs"; empty
    if nothing does.
    """

    page_size: int
    total: int
    free: int
    more: int = 0
    bound: str = ""

    @property
    def setting(self) -> str:
        """The file that root writes the wanted number of pages to."""
        return f"{POOLS}/{pool_name(self.page_size)}/nr_hugepages"

    def way_out(self, wanted: int) -> str:
        """What to do to have wanted pages, as a phrase."""
        if "cgroup" in self.bound:
            return f"raise {self.bound}"
        pool = f"as root: echo {self.total - self.free + wanted} > {self.setting}"
        return f"let them come from other nodes too: numactl, cpuset, --node; or {pool}" if self.bound else pool


def memlock(kernel: Kernel | None = None) -> Memlock:
    """How much memory this process may lock, and how much it has locked. Raises OSError if the kernel does not tell.

    Source: VmLck, VmPin and CapEff of /proc/self/status, "Max locked memory" of /proc/self/limits.
    """
    kernel = kernel or LinuxKernel()
    soft = _word(kernel, "/proc/self/limits", "Max locked memory")
    status = "/proc/self/status"
    return Memlock(
        limit=None if soft == "unlimited" else _number(soft, "/proc/self/limits"),
        charged=_number(_word(kernel, status, "VmLck:"), status) << 10,
        exempt=bool(_number(_word(kernel, status, "CapEff:"), status, 16) >> _CAP_IPC_LOCK & 1),
        pinned=_number(_word(kernel, status, "VmPin:"), status) << 10,
    )


def _word(kernel: Kernel, path: str, name: str) -> str:
    """The word after name in a file of procfs that has a line for each name. Raises OSError, VfioError (EPROTO)."""
    found = (line.removeprefix(name) for line in lines_of(read_text(kernel, path)) if line.startswith(name))
    if not (words := words_of(next(found, ""))):
        raise VfioError(errno.EPROTO, f"read {path}", meaning=f"it does not say {name}")
    return words[0]


def _number(text: str, path: str, base: int = 10) -> int:
    """The number that text is, which is of the file at path. Raises VfioError (EPROTO)."""
    if (number := number_of(text, base)) is None:
        raise VfioError(errno.EPROTO, f"read {path}", meaning=f"it says {shortened(text)}, which is no number")
    return number


def memlock_if_known(kernel: Kernel) -> Memlock | None:
    """What memlock() returns, or None if it cannot be read. For messages: explaining a failure must not become one."""
    try:
        return memlock(kernel)
    except OSError:
        return None


def host_page_size() -> int:
    """The bytes of the smallest page of this machine."""
    return os.sysconf("SC_PAGE_SIZE")


def pool_name(page_size: int) -> str:
    """The name in POOLS of the pool of huge pages of page_size bytes: "hugepages-2048kB"."""
    return f"hugepages-{page_size >> 10}kB"


def huge_page_sizes(kernel: Kernel | None = None) -> list[int]:
    """The sizes of huge pages that the kernel has pools of, in bytes, smallest first."""
    matches = (re.fullmatch(r"hugepages-([0-9]{1,15})kB", name) for name in names_in(kernel or LinuxKernel(), POOLS))
    return sorted(int(match[1]) << 10 for match in matches if match)


def huge_pages(page_size: int, kernel: Kernel | None = None, *, node: int | None = None) -> HugePages:
    """What this process can have of the host's pool of huge pages of page_size bytes; nothing if there is no such pool.

    node: the one NUMA node that they are to come from; None for any that this process may use.
    Source: Documentation/admin-guide/mm/hugetlbpage.rst, cgroup-v2.rst in Linux.
    """
    kernel = kernel or LinuxKernel()
    directory = f"{POOLS}/{pool_name(page_size)}"
    try:
        total, free, reserved = (read_number(kernel, f"{directory}/{name}_hugepages") for name in _COUNTS)
    except FileNotFoundError:
        return HugePages(page_size, 0, 0)
    texts = (text_or_empty(kernel, f"{directory}/{name}") for name in (_OVERCOMMIT, "surplus_hugepages"))
    limit, surplus = (number_of(text) or 0 for text in texts)
    more = max(limit - surplus, 0)
    pool = HugePages(page_size, total, max(0, free - reserved), more)
    for left, bound in (*_of_nodes(kernel, page_size, node), *_of_cgroups(kernel, page_size)):
        if left < pool.free or ("cgroup" in bound and left < pool.free + pool.more):
            more = pool.more if "cgroup" not in bound else min(pool.more, max(left - pool.free, 0))
            pool = replace(pool, free=min(pool.free, left), more=more, bound=bound)
    return pool


def huge_pages_by_node(page_size: int, kernel: Kernel) -> dict[int, tuple[int, int]]:
    """How many huge pages of page_size bytes each NUMA node has in all and free, by its number."""
    found = {}
    for node in sorted(numa_nodes(kernel)):
        directory = f"{NODES}/node{node}/hugepages/{pool_name(page_size)}"
        try:
            total, free = (read_number(kernel, f"{directory}/{name}_hugepages") for name in ("nr", "free"))
        except OSError:
            continue
        found[node] = total, free
    return found


def _of_nodes(kernel: Kernel, page_size: int, node: int | None) -> Iterator[tuple[int, str]]:
    """How many free pages the nodes have that memory comes from, if these are not all, and their names."""
    nodes = memory_nodes(kernel, node)
    pages = huge_pages_by_node(page_size, kernel)
    if nodes is not None and pages:
        yield sum(pages[each][1] for each in nodes if each in pages), in_words(nodes)


def _of_cgroups(kernel: Kernel, page_size: int) -> Iterator[tuple[int, str]]:
    """How many pages each control group leaves that this process is in, if it has a limit, and which that is."""
    kilobytes = page_size >> 10
    size = next(f"{kilobytes >> s}{unit}" for s, unit in ((20, "GB"), (10, "MB"), (0, "KB")) if kilobytes >> s)
    names = {2: (("max", "current"), ("rsvd.max", "rsvd.current"))}
    names[1] = (("limit_in_bytes", "usage_in_bytes"), ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes"))
    for group in control_groups(kernel, "hugetlb"):
        for limit_name, usage_name in names[group.version]:
            limit = group.number(f"hugetlb.{size}.{limit_name}")
            usage = group.number(f"hugetlb.{size}.{usage_name}")
            if limit is not None:
                yield max(limit - (usage or 0), 0) // page_size, f"hugetlb.{size}.{limit_name} of {group}"


def transparent_huge_page_size(kernel: Kernel | None = None) -> int | None:
    """The bytes of a transparent huge page; None for a kernel that has none."""
    try:
        return read_number(kernel or LinuxKernel(), "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    except FileNotFoundError:
        return None


def dma_entry_limit(kernel: Kernel | None = None) -> int:
    """How many mappings a container may hold that is opened now; the kernel's default if type1 is not loaded."""
    try:
        return read_number(kernel or LinuxKernel(), DMA_ENTRY_LIMIT)
    except FileNotFoundError:
        return DEFAULT_DMA_ENTRY_LIMIT
