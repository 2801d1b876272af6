"""What is mounted, in every mount namespace that this process may look into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.host.guard.programs import program
from pyvfio.kernel import Kernel, names_in, read_text, text_or_empty
from pyvfio.texts import printable


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of a mountinfo.

    number: "MAJOR:MINOR" of the file system's device. where: the mount point, and whose mount namespace it is in if it
    is another than this process's. kind: the type of file system. sources: the devices that it is on, or what it has in
    their place.
    """

    number: str
    where: str
    kind: str
    sources: tuple[str, ...]


def all_mounts(kernel: Kernel) -> tuple[list[Mount], list[Mount]]:
    """The mounts of this process's mount namespace, and those of all others. Raises OSError if its own cannot be read.

    Source: proc(5), /proc/PID/mountinfo.
    """
    own = list(_mounts(read_text(kernel, "/proc/self/mountinfo")))
    seen = {_namespace(kernel, "self")}
    elsewhere: list[Mount] = []
    for pid in filter(str.isdigit, names_in(kernel, "/proc")):
        if (namespace := _namespace(kernel, pid)) is not None and namespace not in seen:
            seen.add(namespace)
            whose = f" in the mount namespace of {program(kernel, pid)}"
            elsewhere += _mounts(text_or_empty(kernel, f"/proc/{pid}/mountinfo"), whose)
    return own, elsewhere


def _namespace(kernel: Kernel, pid: str) -> str | None:
    try:
        return kernel.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def _mounts(text: str, whose: str = "") -> Iterator[Mount]:
    """The lines of a mountinfo. Blanks and newlines in names are escaped there; names may have any other character."""
    for line in text.split("\n"):
        fields, _, rest = line.partition(" - ")
        words, more = fields.split(" "), rest.split(" ")
        if len(words) > 4 and len(more) > 1:
            source = _unescaped(more[1])
            # The devices of a bcachefs are joined by colons.
            several = source.split(":") if more[0] == "bcachefs" else [source]
            yield Mount(words[2], printable(_unescaped(words[4])) + whose, more[0], tuple(several))


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which blanks and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
