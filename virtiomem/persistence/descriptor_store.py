"""DescriptorStore: descriptors that outlive the process, by their names in the hands of its service manager."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyvfio.errors import VfioError
from virtiomem.persistence.same_file import is_same_file
from virtiomem.persistence.service_manager import ServiceManager

_log = logging.getLogger(__package__)
_OURS: Final = re.compile(r"[a-z]+\.[0-9a-f]{12}")
"""The names that a store gives."""


@dataclass(frozen=True, slots=True)
class LeftSocket:
    """A socket that listens.

    name: of its descriptor. endpoint: a copy, which is the caller's. is_ours: whether a process before this one has
    made it; otherwise the service manager removes it.
    """

    name: str
    endpoint: socket.socket
    is_ours: bool


@dataclass(slots=True)
class _Entry:
    """fd: our own copy. uses: how many keep it."""

    fd: int
    uses: int


class DescriptorStore:
    """What a process keeps for the one that follows it, and has from the one before. Safe from several threads.

    A descriptor is kept as long as somebody uses its name. A service manager keeps one open file once: it has one name,
    however many use it.

    is_lasting: whether anything is kept; otherwise every name is for nothing.
    """

    def __init__(self, manager: ServiceManager | None = None, left: Sequence[tuple[str, int]] = ()) -> None:
        """manager: who keeps it; None: nobody. left: names and descriptors that it had kept, which become the store's;
        nobody uses them yet.
        """
        self.is_lasting = manager is not None
        self._manager = manager
        self._entries: dict[str, _Entry] = {}
        for name, fd in left:
            # Sockets of one unit of systemd's have one name.
            key = name if name not in self._entries else f"{name} {len(self._entries)}"
            self._entries[key] = _Entry(fd, 0)
        self._lock = threading.Lock()

    def keep_listening(self, fd: int, path: str) -> str:
        """As keep(), for a socket that listens at path: listening_at() finds it."""
        return self._keep(fd, "listener", _listener(path))

    def keep(self, fd: int, kind: str) -> str:
        """Have a copy of fd kept, and use it; return its name. kind: what it is, in a word of ASCII letters.

        When this returns, it is kept. Raises VfioError, with nothing kept.
        """
        return self._keep(fd, kind, f"{kind}.{secrets.token_hex(6)}")

    def _keep(self, fd: int, kind: str, name: str) -> str:
        with self._lock:
            for known, entry in self._entries.items():
                if is_same_file(entry.fd, fd):
                    entry.uses += 1
                    return known
            if self._manager is None:
                return name
            try:
                copy = os.dup(fd)
            except OSError as error:
                raise VfioError(error.errno or errno.EMFILE, f"keep {kind}") from error
            try:
                self._manager.store(name, copy)
                self._manager.wait()
            except BaseException:
                os.close(copy)
                # It may have been told, and be late.
                with suppress(VfioError):
                    self._manager.remove(name)
                raise
            self._entries[name] = _Entry(copy, 1)
            return name

    def use(self, name: str) -> int:
        """A copy, which is the caller's, of what is kept under name, and use it. Raises VfioError if nothing is."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                raise VfioError(
                    errno.ENOENT,
                    f"take up {name}",
                    meaning="the service manager did not keep it",
                    advice="systemd keeps as many as FileDescriptorStoreMax= says",
                )
            try:
                fd = os.dup(entry.fd)
            except OSError as error:
                raise VfioError(error.errno or errno.EMFILE, f"take up {name}") from error
            entry.uses += 1
            return fd

    def listening_at(self, path: str) -> LeftSocket | None:
        """A socket that listens at path, whose name is used from now on; None if none was left.

        It was kept by keep_listening(), or the service manager has made it.
        """
        with self._lock:
            for name, entry in self._entries.items():
                is_ours = name == _listener(path)
                if found := _listening(entry.fd, None if is_ours else path):
                    entry.uses += 1
                    return LeftSocket(name, found, is_ours)
        return None

    def drop(self, name: str) -> None:
        """Use name no longer. It is kept no longer if nobody else does. Raises nothing."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return
            entry.uses -= 1
            if entry.uses <= 0:
                self._forget(name)

    def drop_unused(self, names: Collection[str] | None = None) -> None:
        """What the process before has left, and nobody uses by now, is kept no longer. Raises nothing.

        names: of what this is about; None: all.
        """
        with self._lock:
            for name in [name for name, entry in self._entries.items() if entry.uses <= 0]:
                if names is None or name in names:
                    self._forget(name)

    def keep_nothing(self) -> None:
        """Keep nothing from now on, and let go what the process before has left. Raises nothing.

        Sockets that the service manager has made stay, and listening_at() finds them.
        """
        self.drop_unused([name for name in self._entries if _OURS.fullmatch(name)])
        self._manager, self.is_lasting = None, False

    def _forget(self, name: str) -> None:
        os.close(self._entries.pop(name).fd)
        # Others the service manager has of itself.
        if self._manager is not None and _OURS.fullmatch(name):
            try:
                self._manager.remove(name)
            except VfioError as error:
                _log.warning("%s is kept for nothing: %s", name, error)

    def close(self) -> None:
        """Close this process's copies; what is kept stays so. Closing twice is harmless."""
        with self._lock:
            while self._entries:
                os.close(self._entries.popitem()[1].fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DescriptorStore of {len(self._entries)}>"


def _listener(path: str) -> str:
    """The name of a socket that listens at path: its own address is another one, which it had when it was made."""
    return f"listener.{hashlib.sha256(os.fsencode(Path(path).absolute())).hexdigest()[:12]}"


def _listening(fd: int, path: str | None) -> socket.socket | None:
    """A copy of fd as a socket, if it listens, and its address is path (None: whatever that is)."""
    with suppress(OSError):
        found = socket.socket(fileno=os.dup(fd))
        with suppress(OSError):
            is_unix = (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            is_listening = is_unix and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if is_listening and path in (None, found.getsockname()):
                return found
        found.close()
    return None
