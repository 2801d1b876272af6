"""Which disks the host uses: for mounted file systems or swap, directly or through partitions, LVM, md, dm-crypt."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyvfio.kernel import Kernel, names_in, read_text

_BLOCK = "/sys/class/block"
# With native multipath, file systems are on the head nvme0n1, not on the path nvme0c1n1.
_NVME_PATH = re.compile(r"nvme(\d+)c\d+n(\d+)")


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a disk is used for.

    disk: the block device that was asked about. use: "is mounted on /", "is swap", "is part of md0".
    """

    disk: str
    use: str

    def __str__(self) -> str:
        return f"{self.disk} {self.use}"


class DiskUses:
    """What the host had mounted when this object was made."""

    def __init__(self, kernel: Kernel) -> None:
        """Read what is mounted. Raises OSError if it cannot be read.

        Source: /proc/self/mountinfo and /proc/swaps, proc(5); /sys/class/block/*/holders; /sys/fs/btrfs.
        """
        self._kernel = kernel
        self._mounts: dict[str, list[str]] = {}
        for line in read_text(kernel, "/proc/self/mountinfo").splitlines():
            fields, _, rest = line.partition(" - ")
            number, point, source = fields.split()[2], _unescaped(fields.split()[4]), rest.split()[1]
            for key in (number, source.removeprefix("/dev/")):
                self._mounts.setdefault(key, []).append(point)
        self._swaps = {
            line.split()[0].removeprefix("/dev/") for line in read_text(kernel, "/proc/swaps").splitlines()[1:]
        }
        # The file systems listed are those that are mounted; the mount itself names one device of many.
        mounted = (f"/sys/fs/btrfs/{name}/devices" for name in names_in(kernel, "/sys/fs/btrfs"))
        self._btrfs = {member for directory in mounted for member in names_in(kernel, directory)}

    def of(self, disk: str) -> list[DiskUse]:
        """Every use of a block device, also through the devices that are made of it."""
        name = _NVME_PATH.sub(r"nvme\1n\2", disk)
        uses = [DiskUse(disk, f"is mounted on {point}") for point in self._mount_points(name)]
        if name in self._swaps:
            uses.append(DiskUse(disk, "is swap"))
        if name in self._btrfs and not uses:
            uses.append(DiskUse(disk, "is part of a mounted btrfs"))
        for holder in names_in(self._kernel, f"{_BLOCK}/{name}/holders"):
            above = [use.use for use in self.of(holder)]
            uses.append(DiskUse(disk, f"is part of {holder}" + (f", which {', '.join(above)}" if above else "")))
        return uses

    def _mount_points(self, name: str) -> list[str]:
        try:
            number = read_text(self._kernel, f"{_BLOCK}/{name}/dev")
        except FileNotFoundError:
            number = ""
        points = [*self._mounts.get(number, []), *self._mounts.get(name, [])]
        return list(dict.fromkeys(points))


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which blanks and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
