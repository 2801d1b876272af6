"""Which disks the host uses: who holds them, and for what.

The kernel says whether anybody holds a disk or partition: then opening it exclusively and read only fails with EBUSY.
Mounts, swap and what is built of disks (LVM, md, dm-crypt, btrfs, ZFS, bcachefs) only say who that is. Loop devices and
NVMe targets hold nothing, and are asked about by themselves.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.host.guard.exports import Exports
from pyvfio.host.guard.mounts import all_mounts
from pyvfio.kernel import Kernel, exists, names_in, text_or_empty
from pyvfio.texts import lines_of, printable, words_of

_BLOCK = "/sys/class/block"
# With native multipath, file systems are on the head nvme0n1 and its partitions, not on the path nvme0c1n1.
_NVME_PATH = re.compile(r"nvme(\d+)c\d+n(\d+)")
# Where the first label of a member of a ZFS pool is, and its size: names and values, where a string follows its name.
_ZFS_LABEL = (0x4000, 0x1C000)
_ZFS_NAME = re.compile(rb"\0\0\0\x04name\0\0\0\x09\0\0\0\x01\0\0\0(.)", re.DOTALL)
_BCACHEFS_MAGIC = (0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"))
# A drive without a medium, and a device that has gone: nobody holds it.
_NOTHING_THERE = (errno.ENOMEDIUM, errno.ENXIO, errno.ENODEV)


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
        """Read what is mounted, here and in other mount namespaces. Raises OSError if it cannot be read.

        Source: /proc/PID/mountinfo and /proc/swaps, proc(5); /sys/class/block/*/holders; /sys/fs/btrfs.
        """
        self._kernel = kernel
        self._exports = Exports(kernel)
        self._mounts: list[dict[str, list[str]]] = []
        for mounts in all_mounts(kernel):
            places: dict[str, list[str]] = {}
            for mount in mounts:
                # Who has no device of its own, as a file system of several disks, has a number of its own.
                for key in mount.sources if mount.number.startswith("0:") else (mount.number,):
                    places.setdefault(key, []).append(mount.where)
            self._mounts.append(places)
        # A kernel without swap has no such file.
        swaps = lines_of(text_or_empty(kernel, "/proc/swaps"))[1:]
        self._swaps = {words[0].removeprefix("/dev/") for words in map(words_of, swaps) if words}
        # The file systems listed are those that are mounted; the mount itself names one device of many.
        mounted = (f"/sys/fs/btrfs/{name}/devices" for name in names_in(kernel, "/sys/fs/btrfs"))
        self._btrfs = {member for directory in mounted for member in names_in(kernel, directory)}

    def of(self, disk: str) -> list[DiskUse]:
        """Every use of a block device, its holders' uses included."""
        return [use for name in self.names(disk) for use in self._of_one(name)]

    def names(self, disk: str) -> list[str]:
        """The names that a block device is used by: its own, or for a path of NVMe its head's and partitions'."""
        head = _NVME_PATH.sub(r"nvme\1n\2", disk)
        return [disk] if head == disk else [head, *self._partitions(head)]

    def _of_one(self, name: str) -> list[DiskUse]:
        """Every use of the block device of this name. The kernel is asked only if no use has a name."""
        uses = self._named_uses(name)
        if uses:
            return uses
        node = node_of(name)
        try:
            fd = self._kernel.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)
        except OSError as error:
            return [DiskUse(name, use) for use in self._refused(name, error)]
        self._kernel.close(fd)
        is_its = self._kernel.device_number(node) == f"block {self._number(name)}"
        return [] if is_its else [DiskUse(name, use) for use in self._unknown(name, f"{node} is something else")]

    def _named_uses(self, name: str) -> list[DiskUse]:
        """The uses that files of procfs and sysfs name."""
        uses = [DiskUse(name, f"is mounted on {point}") for point in self._mount_points(name)]
        if name in self._swaps:
            uses.append(DiskUse(name, "is swap"))
        if name in self._btrfs and not uses:
            uses.append(DiskUse(name, "is part of a mounted btrfs"))
        for holder in names_in(self._kernel, f"{_BLOCK}/{name}/holders"):
            uses.append(DiskUse(name, f"is part of {holder}{self._which(holder)}"))
        for loop in self._exports.loops_of(node_of(name)):
            uses.append(DiskUse(name, f"is behind {loop}{self._which(loop, *self._partitions(loop))}"))
        return uses

    def _which(self, *names: str) -> str:
        """What block devices are used for, as the end of a phrase."""
        uses = dict.fromkeys(use.use for name in names for use in self._named_uses(name))
        return f", which {', '.join(uses)}" if uses else ""

    def _refused(self, name: str, error: OSError) -> Iterator[str]:
        """The uses that error tells of, with which opening the block device exclusively has failed."""
        if error.errno in _NOTHING_THERE:
            return
        if error.errno != errno.EBUSY:
            yield from self._unknown(name, error.strerror or "")
        # Whoever holds a partition holds the disk, which then has no use of its own.
        elif not any(map(self._of_one, self._partitions(name))):
            yield self._signature(name) or "is in use: the kernel lends it to nobody else"

    def _unknown(self, name: str, why: str) -> Iterator[str]:
        """The use of a disk that the kernel cannot be asked about."""
        # Who asks about the disk asks about its partitions too.
        if not exists(self._kernel, f"{_BLOCK}/{name}/partition") and not any(
            map(self._named_uses, self._partitions(name))
        ):
            yield f"may be in use: whether anybody holds it could not be asked ({why})"

    def _partitions(self, disk: str) -> list[str]:
        return [name for name in names_in(self._kernel, _BLOCK) if _is_partition(name, disk)]

    def _number(self, name: str) -> str:
        return text_or_empty(self._kernel, f"{_BLOCK}/{name}/dev")

    def _signature(self, name: str) -> str | None:
        """What holds a disk, as a label on the disk says; None if it has no label that is known here."""
        try:
            fd = self._kernel.open(node_of(name), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            label = self._kernel.pread(fd, _ZFS_LABEL[1], _ZFS_LABEL[0])
            magic = self._kernel.pread(fd, len(_BCACHEFS_MAGIC[1]), _BCACHEFS_MAGIC[0])
        except OSError:
            return None
        finally:
            self._kernel.close(fd)
        if found := _ZFS_NAME.search(label):
            pool = label[found.end() : found.end() + found[1][0]].decode(errors="replace")
            return f"is part of the ZFS pool {printable(pool)}"
        return "is part of a bcachefs" if magic == _BCACHEFS_MAGIC[1] else None

    def _mount_points(self, name: str) -> list[str]:
        """Where a block device is mounted: where this process sees it, or else in other mount namespaces."""
        own, elsewhere = ([*each.get(self._number(name), []), *each.get(node_of(name), [])] for each in self._mounts)
        return list(dict.fromkeys(own or elsewhere))


def _is_partition(name: str, disk: str) -> bool:
    """Whether name is a partition of disk: sda2 of sda; nvme0n1p2 of nvme0n1, whose name ends in a digit."""
    return re.fullmatch(rf"{re.escape(disk)}{'p' * disk[-1].isdigit()}\d+", name) is not None


def node_of(name: str) -> str:
    """The path of a block device's node. A "!" in a name of sysfs stands for a "/"."""
    return f"/dev/{name.replace('!', '/')}"
