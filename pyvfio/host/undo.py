"""UndoFile: what devices were before they were changed, on disk before the first write to them."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyvfio.host.binding import Binding

DEFAULT = Path("/run/pyvfio/undo.json")
"""Where the file is if nobody chooses: in a directory that the next boot empties, as it ends every binding."""

_VERSION = 1


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
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        try:
            content = json.loads(text)
            if content["version"] != _VERSION:
                raise ValueError(f"it is of version {content['version']!r}, not {_VERSION}")
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
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, "devices": [asdict(entry) for entry in entries]}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        with self._directory() as directory:
            os.fsync(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the file. The lock ends with the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._directory() as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _directory(self) -> Iterator[int]:
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
