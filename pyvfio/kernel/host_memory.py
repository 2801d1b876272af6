"""How much memory this process can have without anything else giving way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.kernel.files import names_in, text_or_empty
from pyvfio.kernel.seam import Kernel, LinuxKernel

_NODES = "/sys/devices/system/node"
_CGROUP = "/sys/fs/cgroup"
# The first version of cgroups shows a number above this if there is no limit: the largest number of whole pages.
_NO_LIMIT = 1 << 62
_TIGHT = 0.9


@dataclass(frozen=True, slots=True)
class HostMemory:
    """How much memory can be had.

    available: bytes. bound: what sets the limit, in words: "MemAvailable", "the limit of cgroup /jobs", "node 1".
    """

    available: int
    bound: str

    @property
    def way_out(self) -> str:
        """What to do to have more, as a phrase."""
        if "cgroup" in self.bound:
            return f"raise {self.bound}: memory.max, MemoryMax= in systemd, docker --memory"
        if "node" in self.bound:
            return "let memory come from other nodes too: numactl, cpuset, --node"
        return "end what uses the rest"


def host_memory(kernel: Kernel | None = None, *, node: int | None = None) -> HostMemory | None:
    """How much memory this process can have; None if the kernel does not tell.

    It is the least of what is free or can be reclaimed on the host, of what is so in the NUMA nodes that this process
    may use, and of what the limits of its control groups leave. node: the one node that memory is to come from; None
    for any.
    Source: proc(5), MemAvailable; cgroup-v2.rst, memory.max and memory.current; cpuset(7), Mems_allowed_list.
    """
    kernel = kernel or LinuxKernel()
    bounds = [*_of_host(kernel), *_of_nodes(kernel, node), *_of_cgroups(kernel)]
    return min(bounds, key=lambda bound: bound.available, default=None)


def is_tight(wanted: int, available: int) -> bool:
    """Whether wanted bytes, though they fit, leave the host hardly any of the available bytes."""
    return wanted > available * _TIGHT


def _of_host(kernel: Kernel) -> Iterator[HostMemory]:
    figures = _meminfo(text_or_empty(kernel, "/proc/meminfo"))
    if "MemAvailable" in figures:
        yield HostMemory(figures["MemAvailable"], "MemAvailable")


def _of_nodes(kernel: Kernel, node: int | None) -> Iterator[HostMemory]:
    """What node has, or if it is None the nodes that this process may use, unless it may use all."""
    there = {int(name[4:]) for name in names_in(kernel, _NODES) if re.fullmatch(r"node\d+", name)}
    allowed = _numbers(_field(text_or_empty(kernel, "/proc/self/status"), "Mems_allowed_list")) & there
    wanted = {node} & there if node is not None else allowed
    if wanted and wanted != there:
        available = sum(map(_reclaimable, (_meminfo(text_or_empty(kernel, _node_file(each))) for each in wanted)))
        names = ", ".join(map(str, sorted(wanted)))
        yield HostMemory(available, f"node{'s' if len(wanted) > 1 else ''} {names}")


def _of_cgroups(kernel: Kernel) -> Iterator[HostMemory]:
    """What each control group that this process is in leaves, if the group has a limit."""
    for line in text_or_empty(kernel, "/proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield from _limits(kernel, _CGROUP, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = f"{_CGROUP}/memory"
            yield from _limits(kernel, root, path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _limits(kernel: Kernel, root: str, path: str, limit_file: str, usage_file: str) -> Iterator[HostMemory]:
    parts = [part for part in path.split("/") if part]
    # A group above the namespace's root is shown as ".." and cannot be seen from here.
    parts = [] if ".." in parts else parts
    for count in range(len(parts), -1, -1):
        group = "/".join(parts[:count])
        directory = f"{root}/{group}".rstrip("/")
        limit, usage = (text_or_empty(kernel, f"{directory}/{name}") for name in (limit_file, usage_file))
        if not limit.isdigit() or not usage.isdigit() or int(limit) >= _NO_LIMIT:
            continue
        # Cached files are dropped before anything fails.
        statistics = text_or_empty(kernel, f"{directory}/memory.stat")
        dropped = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
        used = max(int(usage) - (int(dropped[1]) if dropped else 0), 0)
        yield HostMemory(max(int(limit) - used, 0), f"the limit of cgroup /{group}")


def _node_file(node: int) -> str:
    return f"{_NODES}/node{node}/meminfo"


def _reclaimable(figures: dict[str, int]) -> int:
    """The bytes of a node that are free or that the kernel can take back."""
    return sum(figures.get(name, 0) for name in ("MemFree", "Inactive(file)", "SReclaimable"))


def _meminfo(text: str) -> dict[str, int]:
    """The figures of a meminfo in bytes, by name. A node's lines begin with its number."""
    found = re.findall(r"^(?:Node \d+ )?(\S+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(number) << 10 for name, number in found}


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(\S+)$", text, re.MULTILINE)
    return match[1] if match else ""


def _numbers(text: str) -> set[int]:
    """The numbers of a list such as "0-3,8"."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found |= set(range(int(first), int(last or first) + 1))
    return found
