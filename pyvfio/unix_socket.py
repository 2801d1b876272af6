"""Listener: a unix socket that only its owner may connect to, or whom the program lets."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError

_LONGEST_PATH: Final = 107
"""Bytes that the address of a unix socket has room for. Source: unix(7), sun_path."""
_PATIENCE: Final = 5.0
"""Seconds to wait for another start or end at the same path, which takes milliseconds."""
_PAUSE: Final = 0.5
"""Seconds for which nobody is let in after there was no descriptor left for somebody."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may connect: whoever may write to the socket's file.

    mode: of the file, as chmod(2) has it. user, group: whose it is, by number; -1 for the process's own, and only root
    gives a file to another user.
    """

    mode: int = stat.S_IRUSR | stat.S_IWUSR
    user: int = -1
    group: int = -1


_ITS_OWNER: Final = Permissions()


def connected_stream(fd: int) -> socket.socket:
    """The socket of a descriptor, which belongs to it from now on; it is closed if it is no connected unix stream.

    Raises OSError.
    """
    try:
        endpoint = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    try:
        endpoint.getpeername()
        if (endpoint.family, endpoint.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
    except OSError:
        endpoint.close()
        raise
    return endpoint


class Listener:
    """A socket at path that listens from its first moment there, and is removed by close().

    Of any number of starts at one path one wins, and the others hear of it. While somebody starts or ends, the socket's
    directory has two more files: .NAME.lock, which is locked for that long, and the socket before it listens.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        endpoint: socket.socket | None = None,
        is_ours: bool = True,
        permissions: Permissions = _ITS_OWNER,
    ) -> None:
        """Take the place of a socket that nobody listens at any more, if there is one.

        clock: the one by which pause_end is told. endpoint: a socket that listens at path already, which belongs to the
        listener from now on; is_ours: whether close() removes it. permissions: who may connect to a socket that is made
        here, from its first moment.
        Raises VfioError if another process listens there or is about to, if path is no socket, or if it cannot be made.
        """
        self.path = path
        self.pause_end: float | None = None
        """When somebody is let in again, by the clock; None for now. Until then fileno() need not be waited for."""
        self._clock = clock
        self._is_ours = is_ours
        self._place = Path(path)
        self._process = os.getpid()
        # Of one name for each place: what a process leaves that is killed as it starts the next one replaces.
        own = self._place.with_name(f".{zlib.crc32(os.fsencode(self._place.name)):08x}")
        if max(len(os.fsencode(path)), len(os.fsencode(own))) > _LONGEST_PATH:
            meaning = f"the path of a unix socket has at most {_LONGEST_PATH} bytes, and {len(own.name)} for its name"
            raise VfioError(errno.ENAMETOOLONG, "listen", {"socket": path}, meaning)
        if endpoint is not None and _is_socket(self._place):
            endpoint.setblocking(False)
            self._socket = endpoint
            self._identity = _identity(self._place)
            return
        if endpoint is not None:
            # Whoever has removed it, nobody finds it any more.
            endpoint.close()
            self._is_ours = True
        with _locked(self._place):
            _require_free(self._place)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                self._identity = self._listen(own, permissions)
            except OSError as error:
                self._socket.close()
                raise VfioError(error.errno or errno.EIO, "listen", {"socket": path}) from error

    def fileno(self) -> int:
        """The descriptor, which is readable when someone has connected."""
        return self._socket.fileno()

    @property
    def descriptors(self) -> list[int]:
        """The descriptor, unless nobody is to be let in at the moment."""
        if self.pause_end is not None and self._clock() < self.pause_end:
            return []
        self.pause_end = None
        return [self._socket.fileno()]

    def accept(self) -> socket.socket | None:
        """The connection of the next peer; None if it has gone already.

        None also when the process or the host has no descriptor left: the peer waits until pause_end at least.
        """
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionError):
            return None
        except OSError:
            # Whoever waits stays readable: without a pause whoever serves would ask for nothing else.
            self.pause_end = self._clock() + _PAUSE
            return None

    def leave(self) -> None:
        """Stop listening here, and leave the socket to whoever has a copy of it."""
        self._socket.close()

    def close(self) -> None:
        """Stop listening, and remove the socket. Closing twice is harmless.

        A forked child only gives its copy up.
        """
        if self._socket.fileno() < 0:
            return
        # Removed first: a socket at which nobody listens is that of a process that was killed.
        try:
            if self._is_ours and self._process == os.getpid() and _identity(self._place) == self._identity:
                with _locked(self._place):
                    if _identity(self._place) == self._identity:
                        self._place.unlink()
        finally:
            self._socket.close()

    def _listen(self, own: Path, permissions: Permissions) -> tuple[int, int]:
        """Listen at own, and give the socket its real place then: whoever finds it there finds it served."""
        # Linux gives the file the mode of the socket, so there is no moment in which others could connect; and nobody
        # can before listen().
        os.fchmod(self._socket.fileno(), _ITS_OWNER.mode)
        if _is_socket(own):
            own.unlink()
        self._socket.bind(str(own))
        try:
            if permissions != _ITS_OWNER:
                os.chown(own, permissions.user, permissions.group, follow_symlinks=False)
                own.chmod(permissions.mode)
            self._socket.listen()
            self._socket.setblocking(False)
            identity = _identity_of(own.lstat())
            own.rename(self._place)
        except BaseException:
            own.unlink(missing_ok=True)
            raise
        return identity


def is_served(path: Path) -> bool:
    """Whether somebody listens at path. Does not wait, and is not noticed by whoever serves but as a peer that left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            # So many wait there already that no more are let in.
            return True
        except OSError:
            return False
    return True


def _require_free(place: Path) -> None:
    """Raises VfioError unless there is nothing at place, or a socket that nobody listens at."""
    try:
        is_socket = stat.S_ISSOCK(place.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise VfioError(error.errno or errno.EIO, "listen", {"socket": str(place)}) from error
    if not is_socket:
        raise VfioError(errno.EEXIST, "listen", {"socket": str(place)}, "something that is no socket is there")
    if is_served(place):
        raise VfioError(errno.EADDRINUSE, "listen", {"socket": str(place)}, "another process serves it")


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let nobody else start or end at place for the length of a with block. Raises VfioError if that cannot be had."""
    lock = place.with_name(f".{place.name}.lock")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, "listen", {"socket": str(place)}) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before has removed the file: the lock is one of a file that nobody finds any more.
            if _identity(lock) == _identity_of(os.fstat(fd)):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise VfioError(
                    errno.EBUSY, "listen", {"socket": str(place)}, f"another process holds {lock}", "End it, or wait"
                ) from None
            time.sleep(0.005)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(fd)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and the inode of the file at path; None if there is none."""
    try:
        return _identity_of(path.lstat())
    except OSError:
        return None


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
