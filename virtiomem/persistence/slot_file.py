"""SlotFile: a file that a process which is killed while it writes leaves as it was, or as it should be."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource

_MAGIC: Final = b"vmemkept"
_HEAD: Final = struct.Struct("<8sQII")
"""Magic, the number of the write, bytes of the content, and a CRC-32 of the three and the content."""
_ROOM: Final = 16 << 20
"""Bytes of a slot. The file is sparse."""
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class SlotFile(Resource):
    """One content at a time, of any process that opens the file. One process at a time has it open.

    A write goes into one of two slots, and counts when all of it is there: until then the other one does. It outlives
    the process, however that ends, and not the host: nothing waits for a disk. A file that was removed meanwhile is
    made anew by the next write.

    path: the file's. content: what it holds; None for a new one.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it, for its owner only.

        Raises VfioError if another process has it open (EBUSY), if it is somebody else's, cannot be opened, or has not
        all that was written to it (EPROTO).
        """
        self.path = path
        self._fd = self._open(_FLAGS)
        try:
            self._number, self.content = self._newest()
        except BaseException:
            os.close(self._fd)
            raise
        super().__init__()

    def write(self, content: bytes) -> None:
        """Have content in place of the one before. Raises VfioError, with the one before in place."""
        self.require_open()
        if not os.fstat(self._fd).st_nlink:
            self._make_anew()
        number = self._number + 1
        if _HEAD.size + len(content) > _ROOM:
            raise self._error(errno.EFBIG, f"{len(content)} bytes are more than it holds")
        data = _HEAD.pack(_MAGIC, number, len(content), _checksum(number, content)) + content
        try:
            written = os.pwrite(self._fd, data, number % 2 * _ROOM)
        except OSError as error:
            raise self._error(error.errno, "it cannot be written") from error
        if written != len(data):
            raise self._error(errno.ENOSPC, f"{written} of {len(data)} bytes were written")
        self._number, self.content = number, content

    def _open(self, flags: int) -> int:
        """A descriptor of the file, locked. Raises VfioError."""
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._error(error.errno, "it cannot be opened for writing") from error
        try:
            self._require_ours(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_anew(self) -> None:
        """What is written to a file that was removed nobody finds. Raises VfioError if there is another one now."""
        fd = self._open(_FLAGS | os.O_EXCL)
        os.close(self._fd)
        self._fd, self._number = fd, 0

    def _require_ours(self, fd: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise self._error(errno.EPERM, "it is not a file that is this user's alone", "chmod 600 it, or remove it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._error(errno.EBUSY, "another process has it open", "End the server that runs") from error

    def _newest(self) -> tuple[int, bytes | None]:
        """The number of the last write that is there in full, and its content; 0 and None for a new file.

        Whoever is killed while he writes leaves the head of that write and the write before. Raises VfioError if there
        is anything else: what is older than that must not be taken for the newest.
        """
        slots = [self._read(0), self._read(1)]
        last = max((slot for slot in slots if slot.content is not None), key=lambda slot: slot.number, default=_EMPTY)
        other = slots[1 - last.number % 2]
        if last.number > 1:
            is_whole = other.number in (last.number - 1, last.number + 1)
        else:
            # The first write, or none: what may be beside it is the beginning of the next one.
            is_whole = other.number == last.number + 1 or other.is_empty
            is_whole &= last is not _EMPTY or slots[0].is_empty
        if not is_whole:
            meaning = "it is damaged: a part of what was written to it is missing"
            raise self._error(errno.EPROTO, meaning, "Remove it if its guest has ended")
        return last.number, last.content

    def _read(self, slot: int) -> _Slot:
        head = os.pread(self._fd, _HEAD.size, slot * _ROOM)
        if not any(head):
            return _EMPTY
        magic, number, size, checksum = _HEAD.unpack(head.ljust(_HEAD.size, b"\0"))
        if magic != _MAGIC or size > _ROOM - _HEAD.size or number % 2 != slot:
            return _Slot(-1, None)
        content = os.pread(self._fd, size, slot * _ROOM + _HEAD.size)
        if len(content) != size or checksum != _checksum(number, content):
            return _Slot(number, None)
        return _Slot(number, content)

    def _error(self, code: int | None, meaning: str, advice: str = "") -> VfioError:
        return VfioError(code or errno.EIO, f"state in {self.path}", meaning=meaning, advice=advice)

    def _release(self) -> None:
        os.close(self._fd)

    def __repr__(self) -> str:
        return f"<SlotFile {self.path}>"


@dataclass(frozen=True, slots=True)
class _Slot:
    """number: of the write that is in it; -1 for what no write has left. content: None if not all of it is there."""

    number: int
    content: bytes | None

    @property
    def is_empty(self) -> bool:
        return self.number == 0


_EMPTY: Final = _Slot(0, None)


def _checksum(number: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(_HEAD.pack(_MAGIC, number, len(content), 0)))
