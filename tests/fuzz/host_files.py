"""FilesKernel: a kernel whose files are the parts of an input."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from pyvfio.kernel import LinuxKernel


class FilesKernel(LinuxKernel):
    """Shows files and links, and the directories that they are in; nothing else is there."""

    def __init__(self, files: Mapping[str, bytes], links: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self._files = dict(files)
        self._links = {path: target.decode(errors="surrogateescape") for path, target in (links or {}).items()}
        self._open: dict[int, tuple[bytes, int]] = {}

    def open(self, path: str, flags: int) -> int:
        del flags
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        fd = 1000 + len(self._open)
        self._open[fd] = (self._files[path], 0)
        return fd

    def close(self, fd: int) -> None:
        del fd

    def read(self, fd: int, size: int) -> bytes:
        data, place = self._open[fd]
        self._open[fd] = (data, place + size)
        return data[place : place + size]

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self._open[fd][0][offset : offset + size]

    def listdir(self, path: str) -> list[str]:
        begin = f"{path.rstrip('/')}/"
        names = {
            place.removeprefix(begin).split("/")[0] for place in (*self._files, *self._links) if place.startswith(begin)
        }
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(names)

    def readlink(self, path: str) -> str:
        if path not in self._links:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._links[path]

    def device_number(self, path: str) -> str:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return "block 8:1"


def parts_of(data: bytes, *names: str) -> dict[str, bytes]:
    """The files of these names, whose contents an input has one after the other, with NULs between; those that it has
    not are not there."""
    return dict(zip(names, data.split(b"\0"), strict=False))
