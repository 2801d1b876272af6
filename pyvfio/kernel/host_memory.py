"""How much memory this process can have without anything else giving way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pyvfio.kernel.files import text_or_empty
from pyvfio.kernel.placement import NODES, ControlGroup, control_groups, in_words, memory_nodes
from pyvfio.kernel.seam import Kernel, LinuxKernel
from pyvfio.units import size_in_words

_TIGHT = 0.9


@dataclass(frozen=True, slots=True)
class HostMemory:
    """How much memory can be had.

    available: bytes. bound: what sets the limit, in words: "MemAvailable", "the limit of cgroup /jobs", "node 1".
    unhurried: bytes that can be had before the kernel slows this process down; None for all. slowed_by: what says so.
    """

    available: int
    bound: str
    unhurried: int | None = None
    slowed_by: str = ""

    @property
    def way_out(self) -> str:
        """What to do to have more, as a phrase."""
        if "cgroup" in self.bound:
            return f"raise {self.bound}: memory.max, MemoryMax= in systemd, docker --memory"
        if "node" in self.bound:
            return "let memory come from other nodes too: numactl, cpuset, --node"
        return "end what uses the rest"

    def strain(self, wanted: int) -> tuple[str, str]:
        """Why wanted bytes, though they fit, are too much to be well, and what to do, as phrases; empty if all is."""
        if self.unhurried is not None and wanted > self.unhurried:
            # What is pinned cannot be reclaimed, which is what the kernel slows a group down for.
            return (
                f"beyond {size_in_words(self.unhurried)} the kernel slows it down ({self.slowed_by})",
                f"less memory, or raise {self.slowed_by}: MemoryHigh= in systemd",
            )
        if wanted > self.available * _TIGHT:
            return "nearly all there is", "leave some to the host: less memory"
        return "", ""


def host_memory(kernel: Kernel | None = None, *, node: int | None = None) -> HostMemory | None:
    """How much memory this process can have; None if the kernel does not tell.

    It is the least of what is free or can be reclaimed on the host, of what is so in the NUMA nodes that this process
    may use, and of what the limits of its control groups leave. node: the one node that memory is to come from; None
    for any.
    Source: proc(5), MemAvailable; cgroup-v2.rst, memory.max, memory.high and memory.current; cpuset(7).
    """
    kernel = kernel or LinuxKernel()
    groups = list(control_groups(kernel, "memory"))
    bounds = [*_of_host(kernel), *_of_nodes(kernel, node), *_of_cgroups(groups)]
    least = min(bounds, key=lambda bound: bound.available, default=None)
    gentle = min(_gentle(groups), default=None)
    if least is None or gentle is None:
        return least
    return replace(least, unhurried=gentle[0], slowed_by=gentle[1])


def _of_host(kernel: Kernel) -> Iterator[HostMemory]:
    figures = _meminfo(text_or_empty(kernel, "/proc/meminfo"))
    if "MemAvailable" in figures:
        yield HostMemory(figures["MemAvailable"], "MemAvailable")


def _of_nodes(kernel: Kernel, node: int | None) -> Iterator[HostMemory]:
    """What node has, or if it is None the nodes that this process may use, unless it may use all."""
    nodes = memory_nodes(kernel, node)
    if nodes is not None:
        texts = (text_or_empty(kernel, f"{NODES}/node{each}/meminfo") for each in nodes)
        yield HostMemory(sum(_reclaimable(_meminfo(text)) for text in texts), in_words(nodes))


def _of_cgroups(groups: Sequence[ControlGroup]) -> Iterator[HostMemory]:
    """What each control group that this process is in leaves, if the group has a limit."""
    for group in groups:
        limit = group.number("memory.max" if group.version == 2 else "memory.limit_in_bytes")
        used = _used(group)
        if limit is not None and used is not None:
            yield HostMemory(max(limit - used, 0), f"the limit of {group}")


def _gentle(groups: Sequence[ControlGroup]) -> Iterator[tuple[int, str]]:
    """What each control group leaves before the kernel slows its processes down, and what says so."""
    for group in groups:
        limit, used = group.number("memory.high"), _used(group)
        if limit is not None and used is not None:
            yield max(limit - used, 0), f"memory.high of {group}"


def _used(group: ControlGroup) -> int | None:
    """The bytes that a group uses and that the kernel cannot take back; None if it does not say."""
    usage = group.number("memory.current" if group.version == 2 else "memory.usage_in_bytes")
    if usage is None:
        return None
    # Cached files are dropped before anything fails, those that are in use last.
    prefix = "" if group.version == 2 else "total_"
    found = re.findall(rf"^{prefix}(?:in)?active_file ([0-9]{{1,19}})$", group.text("memory.stat"), re.MULTILINE)
    return max(usage - sum(map(int, found)), 0)


def _reclaimable(figures: dict[str, int]) -> int:
    """The bytes of a node that are free or that the kernel can take back."""
    return sum(figures.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable"))


def _meminfo(text: str) -> dict[str, int]:
    """The figures of a meminfo in bytes, by name. A node's lines begin with its number."""
    found = re.findall(r"^(?:Node [0-9]+ )?(\S+):[ \t]+([0-9]{1,19}) kB$", text, re.MULTILINE)
    return {name: int(number) << 10 for name, number in found}
