"""Which programs have a device open."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pyvfio.kernel import Kernel, names_in, text_or_empty
from pyvfio.texts import printable

_MANY = 3
"""How many programs are named for a device."""


class OpenFiles:
    """Which programs had which nodes open when this object was made: all programs for root, for others their own."""

    def __init__(self, kernel: Kernel) -> None:
        """Read what each program has open. Source: proc(5), /proc/PID/fd."""
        self._kernel = kernel
        self._pids: dict[str, list[str]] = {}
        for pid in filter(str.isdigit, names_in(kernel, "/proc")):
            with suppress(OSError):  # it has ended, or is another user's
                for fd in names_in(kernel, f"/proc/{pid}/fd"):
                    self._note(pid, fd)

    def reasons(self, nodes: Iterable[str]) -> list[str]:
        """A phrase for each of nodes that programs have open: "X (pid 7) has /dev/dri/card0 open"."""
        reasons = []
        for node in nodes:
            # A program in a container has the same node by another path, whose end is the same.
            ends = node.removeprefix("/dev")
            pids = list(dict.fromkeys(pid for path, pids in self._pids.items() if path.endswith(ends) for pid in pids))
            if pids:
                names = [program(self._kernel, pid) for pid in pids[:_MANY]]
                more = f" and {len(pids) - _MANY} more" if len(pids) > _MANY else ""
                verb = "have" if len(pids) > 1 else "has"
                reasons.append(f"{', '.join(names)}{more} {verb} {node} open")
        return reasons

    def _note(self, pid: str, fd: str) -> None:
        with suppress(OSError):
            path = self._kernel.readlink(f"/proc/{pid}/fd/{fd}")
            # A file may have the name of a node, as the image of a disk does.
            if path.startswith("/") and self._kernel.device_number(f"/proc/{pid}/fd/{fd}"):
                self._pids.setdefault(path, []).append(pid)


def program(kernel: Kernel, pid: str) -> str:
    """A program as a person knows it: "X (pid 7)"."""
    name = printable(text_or_empty(kernel, f"/proc/{pid}/comm"))
    return f"{name or 'a program'} (pid {pid})"
