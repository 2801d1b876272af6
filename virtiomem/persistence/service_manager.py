"""ServiceManager: who started this process, and keeps descriptors for the one that follows it.

systemd is one, and `virtiomem keep` another. Both are told by datagrams at NOTIFY_SOCKET, and hand descriptors back at
the next start. Source: sd_notify(3), sd_listen_fds(3); systemd.service(5), FileDescriptorStoreMax=.
"""

from __future__ import annotations

import array
import errno
import os
import resource
import select
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final, Self

from pyvfio.errors import VfioError
from pyvfio.texts import number_of
from virtiomem.persistence.notify_socket import FIRST_INHERITED

_PATIENCE: Final = 5.0
"""Seconds that a service manager has to take what it is told."""


class ServiceManager:
    """Tells the service manager of this process what it is to know. Safe from several threads."""

    def __init__(self, address: str) -> None:
        """address: of its socket: a path, or a name that begins with @ and is in no file system."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """The one that environment tells of; None if nobody wants to be told."""
        address = environment.get("NOTIFY_SOCKET", "")
        return cls(address) if address[:1] in ("/", "@") else None

    def ready(self) -> None:
        """This process serves from now on. Raises VfioError."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """This process is about to end. Raises VfioError."""
        self._tell("STOPPING=1")

    def store(self, name: str, fd: int) -> None:
        """Keep a copy of fd under name, whatever becomes of it, for the process that follows. Raises VfioError.

        name: of characters of ASCII that can be printed, without a colon.
        """
        self._tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd)

    def remove(self, name: str) -> None:
        """Keep what was stored under name no longer. Raises VfioError."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def wait(self) -> None:
        """Wait until everything that it was told before is done. Raises VfioError if that takes seconds."""
        reader, writer = os.pipe()
        try:
            try:
                self._tell("BARRIER=1", writer)
            finally:
                os.close(writer)
            # It closes the other end's last copy.
            poller = select.poll()
            poller.register(reader, 0)
            if not poller.poll(_PATIENCE * 1000):
                raise _failure(errno.ETIMEDOUT)
        finally:
            os.close(reader)

    def _tell(self, text: str, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as endpoint:
                endpoint.settimeout(_PATIENCE)
                endpoint.connect(self._address)
                endpoint.sendmsg([text.encode()], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise _failure(error.errno or errno.ETIMEDOUT) from error

    def __repr__(self) -> str:
        return f"<ServiceManager {self._address!r}>"


def inherited(environment: MutableMapping[str, str], *, first: int = FIRST_INHERITED) -> list[tuple[str, int]]:
    """The descriptors that the service manager gave this process, with their names, in its order.

    They are the caller's from now on, and no longer inherited: what says so is taken out of environment. Empty if they
    are meant for another process, or there are none. first: the number of the first one.
    """
    owner, count, names = (environment.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    number = number_of(count)
    if owner != str(os.getpid()) or number is None:
        return []
    # No process has more, whatever it was told.
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fds = range(first, min(first + number, most))
    named = names.split(":") if names else []
    found = []
    for fd, name in zip(fds, [*named, *["unknown"] * len(fds)], strict=False):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            # Somebody has closed it.
            continue
        found.append((name, fd))
    return found


def _failure(code: int) -> VfioError:
    return VfioError(
        code,
        "tell the service manager",
        meaning="what is to outlive this process is not certain to",
        advice="Without one, unset NOTIFY_SOCKET",
    )
