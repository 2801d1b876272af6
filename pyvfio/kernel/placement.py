"""Where this process's memory may come from: the NUMA nodes and the control groups that it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.kernel.files import names_in, text_or_empty
from pyvfio.kernel.seam import Kernel
from pyvfio.texts import lines_of, number_of

NODES = "/sys/devices/system/node"
"""The directory with a directory for each NUMA node."""

_CGROUP = "/sys/fs/cgroup"
# The first version of cgroups shows a number above this if there is no limit: the largest number of whole pages.
_NO_LIMIT = 1 << 62
# More than any kernel is built for: CONFIG_NODES_SHIFT is 10 at most.
_MOST_NODES = 1 << 10


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A control group that this process is in, or one above it, as a controller has it.

    path: "/jobs", below the root. version: of cgroups, 1 or 2.
    """

    kernel: Kernel
    path: str
    directory: str
    version: int

    def number(self, name: str) -> int | None:
        """The number in the group's file called name; None if there is none, and if it is no limit."""
        number = number_of(text_or_empty(self.kernel, f"{self.directory}/{name}"))
        return number if number is not None and 0 <= number < _NO_LIMIT else None

    def text(self, name: str) -> str:
        """What is in the group's file called name; "" if there is none."""
        return text_or_empty(self.kernel, f"{self.directory}/{name}")

    def __str__(self) -> str:
        return f"cgroup {self.path}"


def control_groups(kernel: Kernel, controller: str) -> Iterator[ControlGroup]:
    """The groups that this process is in by a controller, "memory", from its own up to the root.

    Source: cgroups(7), /proc/self/cgroup.
    """
    for line in lines_of(text_or_empty(kernel, "/proc/self/cgroup")):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield from _upwards(kernel, _CGROUP, path, 2)
        elif controller in controllers.split(","):
            yield from _upwards(kernel, f"{_CGROUP}/{controller}", path, 1)


def memory_nodes(kernel: Kernel, node: int | None = None) -> set[int] | None:
    """The NUMA nodes that memory comes from: node, or if it is None those that this process may use; None for all.

    Source: cpuset(7), Mems_allowed_list.
    """
    there = numa_nodes(kernel)
    status = text_or_empty(kernel, "/proc/self/status")
    match = re.search(r"^Mems_allowed_list:\s*(\S+)$", status, re.MULTILINE)
    wanted = {node} & there if node is not None else _numbers(match[1] if match else "") & there
    return wanted if wanted and wanted != there else None


def numa_nodes(kernel: Kernel) -> set[int]:
    """The numbers of the host's NUMA nodes; empty if it does not tell."""
    return {int(name[4:]) for name in names_in(kernel, NODES) if re.fullmatch(r"node[0-9]{1,9}", name)}


def in_words(nodes: set[int]) -> str:
    """ "node 1", or "nodes 0, 1"."""
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, sorted(nodes)))}"


def _upwards(kernel: Kernel, root: str, path: str, version: int) -> Iterator[ControlGroup]:
    parts = [part for part in path.split("/") if part]
    # A group above the namespace's root is shown as ".." and cannot be seen from here.
    parts = [] if ".." in parts else parts
    for count in range(len(parts), -1, -1):
        group = "/".join(parts[:count])
        yield ControlGroup(kernel, f"/{group}", f"{root}/{group}".rstrip("/"), version)


def _numbers(text: str) -> set[int]:
    """The numbers of a list such as "0-3,8"."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        first, last = number_of(low), number_of(high or low)
        if first is not None and last is not None and last <= _MOST_NODES:
            found |= set(range(first, last + 1))
    return found
