"""Listener: a unix socket that only its owner may connect to."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from pyvfio.errors import VfioError


class Listener:
    """A socket at path that listens from the beginning, and is removed by close()."""

    def __init__(self, path: str) -> None:
        """Take the place of a socket that nobody listens at any more, if there is one.

        Raises VfioError if another process listens there, if path is no socket, or if it cannot be made.
        """
        self.path = path
        _remove_stale(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Linux gives the file the mode of the socket, so there is no moment in which others could connect.
            os.fchmod(self._socket.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            self._socket.bind(path)
            self._inode = Path(path).stat().st_ino
            self._socket.listen()
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise VfioError(error.errno or errno.EIO, "listen", {"socket": path}) from error

    def fileno(self) -> int:
        """The descriptor, which is readable when someone has connected."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The connection of the next peer; None if it has gone already."""
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionError):
            return None

    def close(self) -> None:
        """Stop listening, and remove the socket. Closing twice is harmless."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        place = Path(self.path)
        if place.exists() and place.stat().st_ino == self._inode:
            place.unlink()


def _remove_stale(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(Path(path).stat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise VfioError(errno.EEXIST, "listen", {"socket": path}, "something that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise VfioError(errno.EADDRINUSE, "listen", {"socket": path}, "another process serves it")
