"""Which disks the host uses: who holds them, and for what.

The kernel says whether anybody holds a disk or partition: then opening it exclusively and read only fails with EBUSY.
Mounts, swap and what is built of disks (LVM, md, dm-crypt, btrfs, ZFS, bcachefs) only say who that is.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.host.guard.programs import program
from pyvfio.host.printable import printable
from pyvfio.kernel import Kernel, names_in, read_text, text_or_empty

_BLOCK = "/sys/class/block"
# With native multipath, file systems are on the head nvme0n1 and its partitions, not on the path nvme0c1n1.
_NVME_PATH = re.compile(r"nvme(\d+)c\d+n(\d+)")
# File systems of several disks, of which mountinfo does not name all.
_POOLS = {"zfs": "ZFS pool", "bcachefs": "bcachefs"}
# Where the first label of a member of a ZFS pool is, and its size: names and values, where a string follows its name.
_ZFS_LABEL = (0x4000, 0x1C000)
_ZFS_NAME = re.compile(rb"\0\0\0\x04name\0\0\0\x09\0\0\0\x01\0\0\0(.)", re.DOTALL)
_BCACHEFS_MAGIC = (0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"))


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a disk is used for.

    disk: the block device that was asked about. use: "is mounted on /", "is swap", "is part of md0".
    """

    disk: str
    use: str

    def __str__(self) -> str:
        return f"{self.disk} {self.use}"


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of a mountinfo.

    number: "MAJOR:MINOR" of the file system's device. point: where it is mounted. kind: the type of file system.
    sources: the devices that it is on, or what it has in their place.
    """

    number: str
    point: str
    kind: str
    sources: tuple[str, ...]


class DiskUses:
    """What the host had mounted when this object was made."""

    def __init__(self, kernel: Kernel) -> None:
        """Read what is mounted. Raises OSError if it cannot be read.

        Source: /proc/self/mountinfo and /proc/swaps, proc(5); /sys/class/block/*/holders; /sys/fs/btrfs.
        """
        self._kernel = kernel
        self._mounts: dict[str, list[str]] = {}
        self._pools: dict[str, None] = {}
        for mount in _mounts(read_text(kernel, "/proc/self/mountinfo")):
            for key in (mount.number, *(source.removeprefix("/dev/") for source in mount.sources)):
                self._mounts.setdefault(key, []).append(mount.point)
            if mount.kind in _POOLS:
                name = f" {mount.sources[0].partition('/')[0]}" if mount.kind == "zfs" else f" on {mount.point}"
                self._pools[_POOLS[mount.kind] + name] = None
        swaps = read_text(kernel, "/proc/swaps").split("\n")[1:]
        self._swaps = {line.split()[0].removeprefix("/dev/") for line in swaps if line.split()}
        # The file systems listed are those that are mounted; the mount itself names one device of many.
        mounted = (f"/sys/fs/btrfs/{name}/devices" for name in names_in(kernel, "/sys/fs/btrfs"))
        self._btrfs = {member for directory in mounted for member in names_in(kernel, directory)}

    def of(self, disk: str) -> list[DiskUse]:
        """Every use of a block device, its holders' uses included."""
        return [use for name in self.names(disk) for use in self._of_one(name)]

    def names(self, disk: str) -> list[str]:
        """The names that a block device is used by: its own, or for a path of NVMe its head's and partitions'."""
        head = _NVME_PATH.sub(r"nvme\1n\2", disk)
        if head == disk:
            return [disk]
        return [head, *(name for name in names_in(self._kernel, _BLOCK) if _is_partition(name, head))]

    def _of_one(self, name: str) -> list[DiskUse]:
        """Every use of the block device of this name. The kernel is asked only if no use has a name."""
        uses = self._named_uses(name)
        if uses:
            return uses
        try:
            fd = self._kernel.open(_node(name), os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)
        except OSError as error:
            return [DiskUse(name, use) for use in self._refused(name, error)]
        self._kernel.close(fd)
        return []

    def _named_uses(self, name: str) -> list[DiskUse]:
        """The uses that files of procfs and sysfs name."""
        uses = [DiskUse(name, f"is mounted on {point}") for point in self._mount_points(name)]
        if name in self._swaps:
            uses.append(DiskUse(name, "is swap"))
        if name in self._btrfs and not uses:
            uses.append(DiskUse(name, "is part of a mounted btrfs"))
        for holder in names_in(self._kernel, f"{_BLOCK}/{name}/holders"):
            above = [use.use for use in self._named_uses(holder)]
            uses.append(DiskUse(name, f"is part of {holder}" + (f", which {', '.join(above)}" if above else "")))
        return uses

    def _refused(self, name: str, error: OSError) -> Iterator[str]:
        """The uses that error tells of, with which opening the block device exclusively has failed."""
        if error.errno == errno.EBUSY:
            # Whoever holds a partition holds the disk, which then has no use of its own.
            inner = [each for each in names_in(self._kernel, _BLOCK) if _is_partition(each, name)]
            if not any(self._of_one(each) for each in inner):
                yield self._signature(name) or self._elsewhere(name) or "is in use: the kernel lends it to nobody else"
        elif error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM) and self._pools:
            pools = ", ".join(self._pools)
            yield f"may be part of the mounted {pools}: whether it is in use could not be asked ({error.strerror})"

    def _signature(self, name: str) -> str | None:
        """What holds a disk, as a label on the disk says; None if it has no label that is known here."""
        try:
            fd = self._kernel.open(_node(name), os.O_RDONLY | os.O_NONBLOCK)
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

    def _elsewhere(self, name: str) -> str | None:
        """Where a disk is mounted in a mount namespace other than this process's; None if nowhere."""
        number = text_or_empty(self._kernel, f"{_BLOCK}/{name}/dev")
        seen = {self._namespace("self")}
        for pid in filter(str.isdigit, names_in(self._kernel, "/proc")):
            if (namespace := self._namespace(pid)) is None or namespace in seen:
                continue
            seen.add(namespace)
            for mount in _mounts(text_or_empty(self._kernel, f"/proc/{pid}/mountinfo")):
                if mount.number == number or f"/dev/{name}" in mount.sources:
                    return f"is mounted on {mount.point} in the mount namespace of {program(self._kernel, pid)}"
        return None

    def _namespace(self, pid: str) -> str | None:
        try:
            return self._kernel.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            return None

    def _mount_points(self, name: str) -> list[str]:
        number = text_or_empty(self._kernel, f"{_BLOCK}/{name}/dev")
        points = [*self._mounts.get(number, []), *self._mounts.get(name, [])]
        return list(dict.fromkeys(points))


def _mounts(text: str) -> Iterator[_Mount]:
    """The lines of a mountinfo. Blanks and newlines in names are escaped there; names may have any other character."""
    for line in text.split("\n"):
        fields, _, rest = line.partition(" - ")
        words, more = fields.split(" "), rest.split(" ")
        if len(words) > 4 and len(more) > 1:
            source = _unescaped(more[1])
            # The devices of a bcachefs are joined by colons.
            several = source.split(":") if more[0] == "bcachefs" else [source]
            yield _Mount(words[2], printable(_unescaped(words[4])), more[0], tuple(several))


def _is_partition(name: str, disk: str) -> bool:
    """Whether name is a partition of disk: sda2 of sda; nvme0n1p2 of nvme0n1, whose name ends in a digit."""
    return re.fullmatch(rf"{re.escape(disk)}{'p' * disk[-1].isdigit()}\d+", name) is not None


def _node(name: str) -> str:
    """The path of a block device's node. A "!" in a name of sysfs stands for a "/"."""
    return f"/dev/{name.replace('!', '/')}"


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which blanks and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
