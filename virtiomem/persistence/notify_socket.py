"""NotifySocket: where a program tells what is to be kept for it, and what was."""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import resource
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from pyvfio.texts import lines_of

_log = logging.getLogger(__package__)

FIRST_INHERITED: Final = 3
"""The number of the first descriptor that a program finds. Source: sd_listen_fds(3), SD_LISTEN_FDS_START."""
_MOST_FDS: Final = 253
"""How many descriptors a message can carry. Source: net/scm.h, SCM_MAX_FD."""
_LARGEST_MESSAGE: Final = 4096
_NAME: Final = ".keep."
_TURN: Final = 4096
"""How many messages are taken at once: more than wait for a program that has ended (net.unix.max_dgram_qlen)."""
_CREDENTIALS: Final = struct.Struct("3i")


class NotifySocket(Resource):
    """The other end of a ServiceManager: takes what a program tells, and keeps its descriptors. One thread uses it.

    path: what the program finds as NOTIFY_SOCKET. is_ready: whether it has said that it serves.
    """

    def __init__(self, directory: Path) -> None:
        """Listen in directory, which nobody else may enter. Raises VfioError if the socket cannot be made."""
        self.path = directory / f"{_NAME}{os.getpid()}"
        self.is_ready = False
        self._stored: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            _remove_left(directory)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(str(self.path))
        except OSError as error:
            self._socket.close()
            raise VfioError(error.errno or errno.EIO, "listen", {"socket": str(self.path)}) from error
        super().__init__()

    def fileno(self) -> int:
        """The descriptor, which is readable when something was told."""
        return self._socket.fileno()

    @property
    def stored(self) -> tuple[tuple[str, int], ...]:
        """Names and descriptors that are kept, which stay this object's."""
        return tuple(self._stored)

    def take(self, process: int) -> None:
        """Do what the process of this number has told by now. What others tell is dropped.

        A program that goes on telling is not listened to for ever: the socket stays readable then.
        """
        for _ in range(_TURN):
            if not self._take_message(process):
                return

    def _take_message(self, process: int) -> bool:
        """Do what one message says; whether there was one."""
        space = socket.CMSG_SPACE(4 * _MOST_FDS) + socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_LARGEST_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        fds: list[int] = []
        sender = 0
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                rights = array.array("i")
                rights.frombytes(content[: len(content) // 4 * 4])
                fds += rights
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = _CREDENTIALS.unpack(content)[0]
        try:
            if sender == process and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self._obey(lines_of(data.decode("ascii", "replace")), fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _obey(self, lines: Sequence[str], fds: Sequence[int]) -> None:
        """Do what a message says. fds: came with it; they are closed afterwards, which is the answer to BARRIER=1."""
        said = dict(line.partition("=")[::2] for line in lines)
        name = said.get("FDNAME", "")
        if said.get("READY") == "1":
            self.is_ready = True
        if said.get("FDSTOREREMOVE") == "1":
            for kept in [kept for kept in self._stored if kept[0] == name]:
                self._stored.remove(kept)
                os.close(kept[1])
        elif said.get("FDSTORE") == "1" and name.isascii() and name.isprintable() and name and ":" not in name:
            for fd in fds:
                try:
                    # Out of the way of the numbers that the program gets them at.
                    self._stored.append((name, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _lowest())))
                except OSError as error:
                    _log.warning("%s is not kept: %s", name, error)

    def _release(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
        while self._stored:
            os.close(self._stored.pop()[1])

    def __repr__(self) -> str:
        return f"<NotifySocket {self.path}>"


def _remove_left(directory: Path) -> None:
    """Remove the sockets that others have left in directory who were killed."""
    for path in directory.glob(f"{_NAME}*"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                # It is no socket, or has gone.
                continue


def _lowest() -> int:
    """The lowest number that a descriptor is kept at: the program gets fewer than that."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FIRST_INHERITED + limit // 2
