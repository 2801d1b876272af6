"""Uevents: what the kernel tells of devices as they come and go."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from pyvfio.errors import VfioError
from pyvfio.explain import explain
from pyvfio.kernel import EventFd, Kernel, LinuxKernel, Stream, exists

_NETLINK_KOBJECT_UEVENT = 15
_FROM_KERNEL = 1
# Room for the burst that a bus with many functions makes.
_RECEIVE_BUFFER = 1 << 20
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Uevent:
    """One event of a device.

    action: "add", "remove", "bind", "unbind", "change" or "move". path: the device's directory below /sys. subsystem:
    "pci" for example. properties: everything that the kernel said, by name.
    """

    action: str
    path: str
    subsystem: str
    properties: Mapping[str, str]

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """The event of a message, which is "ACTION@DEVPATH" and then KEY=VALUE, each ended by NUL.

        Source: lib/kobject_uevent.c.
        """
        _, *lines = message.decode(errors="replace").split("\0")
        properties = dict(line.split("=", 1) for line in lines if "=" in line)
        return cls(
            properties.get("ACTION", ""), properties.get("DEVPATH", ""), properties.get("SUBSYSTEM", ""), properties
        )

    @property
    def name(self) -> str:
        """The device's name: the last part of its path."""
        return self.path.rpartition("/")[2]


class Uevents(Protocol):
    """The events since it was opened; none is lost between two calls of next()."""

    def next(self, timeout: float | None = None) -> Uevent | None:
        """Wait for the next event; None after timeout seconds."""


class LinuxUevents(Stream[Uevent | None]):
    """The events of the running kernel in this process's network namespace, until close()."""

    # A plain netlink socket: these messages are text without netlink attributes, and pyroute2's socket keeps back
    # messages that have arrived while its descriptor says that there is nothing to read (0.9.7).
    def __init__(self) -> None:
        """Raises VfioError if the kernel gives no such socket."""
        kernel = LinuxKernel()
        closing = EventFd(kernel, "end of uevents", is_owned=True)
        try:
            self._socket = _netlink()
        except OSError as error:
            closing.close()
            raise explain(error, "listen to uevents") from error
        super().__init__(kernel, "uevents", self._socket.fileno(), closing, close=self._socket.close)

    def next(self, timeout: float | None = None) -> Uevent | None:
        """Wait for the next event; None after timeout seconds.

        timeout: None or infinity to wait for ever, zero or less not to wait. Raises VfioError (ENOBUFS) once if more
        events have come than could be kept; call it again then. Raises ClosedError, also if it is closed meanwhile.
        """
        return self.wait(timeout)

    def _take(self, fd: int) -> Uevent | None:  # noqa: ARG002 (the socket's)
        while True:
            try:
                message, (sender, _) = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise VfioError(errno.ENOBUFS, "uevents", meaning="some events were lost") from error
            if sender == 0:
                return Uevent.parse(message)

    def __repr__(self) -> str:
        return f"<LinuxUevents{' closed' if self.closed else ''}>"


def _netlink() -> socket.socket:
    """A socket that gets the kernel's uevents. Raises OSError."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        opened.bind((0, _FROM_KERNEL))
    except BaseException:
        opened.close()
        raise
    return opened


def wait_for_node(kernel: Kernel, path: str, events: Uevents, timeout: float) -> None:
    """Wait until there is a file at path. Open events before you begin what makes the file.

    Raises VfioError (ETIMEDOUT) after timeout seconds.
    """
    end = time.monotonic() + timeout
    while not exists(kernel, path):
        if events.next(max(0.0, end - time.monotonic())) is None and not exists(kernel, path):
            raise VfioError(
                errno.ETIMEDOUT,
                f"wait for {path}",
                meaning=f"it did not appear within {timeout:g} s",
                advice="Is devtmpfs mounted on /dev, and does a udev rule rename it?",
            )
