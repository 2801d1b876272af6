"""UndoFile: what devices were before they were changed, on disk before the first write to them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyvfio.errors import VfioError
from pyvfio.host.binding import Binding
from pyvfio.texts import shortened

DEFAULT = Path("/run/pyvfio/undo.json")
"""Where the file is if nobody chooses: in a directory that the next boot empties, as it ends every binding."""

_VERSION = 1
_FOR_OWNER = 0o600
_PATIENCE = 10.0
"""Seconds to wait for another process that changes the file, which takes milliseconds."""
_PAUSE = 0.005


class UndoFile:
    """A file with the Binding that each changed device had at first, in the order in which they were changed.

    {"version": 1, "devices": [{"address": ..., "driver": ..., "override": ..., "ids": ...}]}. An entry stays until
    forget(), or until another device has its address: changing a device again does not change its entry. path: where
    the file is.
    """

    def __init__(self, path: Path = DEFAULT) -> None:
        """Does not read or write the file."""
        self.path = path

    def read(self) -> list[Binding]:
        """The entries; none if there is no file. Raises ValueError for a file that is no undo file, OSError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            content = json.loads(data)
            if content["version"] != _VERSION:
                raise ValueError(f"it is of version {shortened(content['version'])}, not {_VERSION}")
            return [Binding.from_data(entry) for entry in content["devices"]]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is no undo file: {error}") from error

    def remember(self, before: Sequence[Binding]) -> None:
        """Add an entry for each device that has none yet. They are on disk when this returns.

        An entry of a device that another one has replaced in its slot gives way to the other's.
        Raises ValueError for a file that is no undo file, OSError.
        """
        with self._locked():
            known = self.read()
            # What was noted of a card that another has replaced in its slot is of no use any more.
            replaced = {
                entry.address
                for entry in known
                for now in before
                if entry.address == now.address and not entry.is_of(now)
            }
            kept = [entry for entry in known if entry.address not in replaced]
            addresses = {entry.address for entry in kept}
            self._write([*kept, *(entry for entry in before if entry.address not in addresses)])

    def forget(self, addresses: Sequence[str]) -> None:
        """Remove the entries of devices, and the file with the last one. Raises ValueError, OSError."""
        with self._locked():
            left = [entry for entry in self.read() if entry.address not in addresses]
            if left:
                self._write(left)
            else:
                self.path.unlink(missing_ok=True)

    def _write(self, entries: Sequence[Binding]) -> None:
        """Replace the file, so that the old or the new one is whole on disk whenever the machine stops."""
        new = self._beside("new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FOR_OWNER)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, "devices": [asdict(entry) for entry in entries]}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the file. The lock ends with the process, and is nobody else's to take:
        whoever may read a file may lock it, so it is one that only its owner may read.

        Raises VfioError if another process of this user keeps it, or if the lock's file is somebody else's.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = self._locked_file()
        try:
            # Nobody writes it now: a process has left it that was killed.
            self._beside("new").unlink(missing_ok=True)
            yield
        finally:
            # Removed while it is held, so that whoever has opened it meanwhile finds that it is no lock any more.
            self._beside("lock").unlink(missing_ok=True)
            os.close(fd)

    def _locked_file(self) -> int:
        """The lock's file, which is this process's alone until it is closed."""
        deadline = time.monotonic() + _PATIENCE
        lock = self._beside("lock")
        while True:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FOR_OWNER)
            try:
                status = os.fstat(fd)
                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                    meaning = "others may hold it for as long as they like: it is not this user's alone"
                    raise VfioError(errno.EPERM, f"lock {lock}", meaning=meaning, advice="Remove it")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock, fd):
                    return fd
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    os.close(fd)
                    meaning = "another process of this user changes devices at the moment"
                    raise VfioError(errno.EBUSY, f"lock {lock}", meaning=meaning, advice="End it, or wait") from error
                time.sleep(_PAUSE)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _beside(self, kind: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{kind}")


def _is_at(path: Path, fd: int) -> bool:
    """Whether the file at path is the one that fd has open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False
