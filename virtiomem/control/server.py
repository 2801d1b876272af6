"""ControlServer: a unix socket through which its owner looks at managed devices and resizes them."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pyvfio.errors import InvalidArgument
from pyvfio.resource import Resource
from pyvfio.texts import shortened
from pyvfio.unix_socket import Listener
from virtiomem.control.command import ControlCommand
from virtiomem.control.incoming import Incoming
from virtiomem.control.managed import ManagedDevice
from virtiomem.control.metrics import metrics
from virtiomem.control.migration.commands import Migrations
from virtiomem.control.peer import peer_user
from virtiomem.control.protocol import (
    LARGEST_REQUEST,
    ProtocolError,
    check_name,
    integer,
    line_of,
    read_object,
    seconds,
)
from virtiomem.control.statistics import statistics_data
from virtiomem.control.status import DeviceStatus

_LONGEST_WAIT = 60.0
_MOST_CLIENTS = 64
_PATIENCE = 10.0
"""Seconds after which the connection of a client that does not read its answer is closed."""
_PARTING = 1.0
"""Seconds that clients have at the end for the answers that are on the way to them."""
_PAUSE_CHECK = 100
"""Milliseconds between two looks whether somebody is let in again."""


class ControlServer(Resource):
    """Serves path from the beginning, in threads of its own, until close(). docs/control.md describes the protocol.

    Only the socket's owner may use it: whoever connects must be the user of this process, or root. Close the server
    last of all: a client that has asked for a stop waits for that, and takes it to mean that everything is closed.
    """

    def __init__(self, path: str, stop: Callable[[], None]) -> None:
        """stop: what the stop command calls. Raises VfioError if the socket cannot be made."""
        self.path = path
        self._devices: dict[str, ManagedDevice] = {}
        self._commands: dict[str, ControlCommand] = {}
        self._stop = stop
        self._started = time.monotonic()
        self._revision = 0
        self._ending = False
        self._change = threading.Condition()
        self._clients: dict[socket.socket, _Client] = {}
        self._clients_lock = threading.Lock()
        self._migrations = Migrations(self.changed)
        self._listener = Listener(path)
        self._wake, self._woken = socket.socketpair()
        super().__init__()
        self._thread = threading.Thread(target=self._accept, name=f"control {path}", daemon=True)
        self._thread.start()

    def manage(self, managed: ManagedDevice) -> None:
        """Show a device and take resizes for it, until forget(). The device stays the caller's.

        Raises InvalidArgument for a name that another device has, is too long or cannot be printed.
        """
        check_name(managed.name)
        if managed.name in self._devices:
            raise InvalidArgument(errno.EEXIST, "manage", {"name": managed.name}, "another device has that name")
        self._migrations.manage(managed)
        self._devices = {**self._devices, managed.name: managed}
        self.changed()

    def forget(self, name: str) -> None:
        """Show the device called name no more, and end its migration. Call it before the device is closed."""
        self._devices = {other: managed for other, managed in self._devices.items() if other != name}
        self._migrations.forget(name)
        self.changed()

    def offer(self, commands: Mapping[str, ControlCommand]) -> None:
        """Take these commands, too, by names that are none of the server's own."""
        self._commands = {**self._commands, **commands}

    def metrics(self) -> str:
        """The metrics of every device, in Prometheus' text format."""
        return metrics(self._devices.values())

    def changed(self) -> None:
        """Tell the clients that wait for a change that what show shows has changed.

        Safe from any thread, with any lock held.
        """
        with self._change:
            self._revision += 1
            self._change.notify_all()

    def _accept(self) -> None:
        while True:
            # Without a descriptor left nobody is let in for a while, and the pause ends without anybody who connects.
            poller = _poller(self._woken.fileno(), *self._listener.descriptors)
            ready = [fd for fd, _ in poller.poll(None if self._listener.pause_end is None else _PAUSE_CHECK)]
            if self._woken.fileno() in ready:
                return
            if ready and (client := self._listener.accept()) is not None:
                self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        """Serve client in a thread of its own. The one that has asked nothing for longest makes room, if none is."""
        if not _may_connect(client):
            client.close()
            return
        with self._clients_lock:
            if len(self._clients) >= _MOST_CLIENTS:
                self._send_idlest_away()
            if len(self._clients) >= _MOST_CLIENTS:
                client.close()
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._clients[client] = _Client(thread, time.monotonic())
        try:
            thread.start()
        except RuntimeError:
            # No thread is left.
            with self._clients_lock:
                self._clients.pop(client, None)
            client.close()

    def _send_idlest_away(self) -> None:
        idle = {
            client: state.idle_since
            for client, state in self._clients.items()
            if state.idle_since is not None and not self._migrations.has_owner(client)
        }
        if idle:
            client = min(idle, key=lambda client: idle[client])
            # Its thread closes it.
            del self._clients[client]
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket) -> None:
        try:
            # Only sending has a limit: a client that asks nothing may stay.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_PATIENCE), 0))
            with client, Incoming(client) as incoming:
                self._converse(client, incoming)
        except OSError:
            pass  # the client is gone, or does not read
        finally:
            with self._clients_lock:
                self._clients.pop(client, None)
            self._migrations.left(client)

    def _converse(self, client: socket.socket, incoming: Incoming) -> None:
        """Answer requests until the client has no more, or breaks the protocol."""
        try:
            while (request := read_object(incoming.lines, LARGEST_REQUEST)) is not None:
                self._set_idle(client, since=None)
                answer = line_of(self._answer(request, incoming.descriptors, client))
                incoming.drop()
                # From here on it is the client who takes its time.
                self._set_idle(client, since=time.monotonic())
                client.sendall(answer)
        except ProtocolError as error:
            client.sendall(line_of(_refusal(error, "EPROTO")))

    def _set_idle(self, client: socket.socket, *, since: float | None) -> None:
        with self._clients_lock:
            if client in self._clients:
                self._clients[client].idle_since = since

    def _answer(self, request: dict[str, object], descriptors: list[int], client: socket.socket) -> dict[str, object]:
        try:
            name = str(request.get("command"))
            command = self._commands.get(name)
            most = 0 if command is None else command.most_descriptors
            if len(descriptors) > most:
                raise ProtocolError(f"{shortened(name)} takes {most or 'no'} descriptors, and {len(descriptors)} came")
            result = self._result(request, client) if command is None else command.run(request, descriptors)
            return {"ok": True, "result": result}
        except ProtocolError as error:
            return _refusal(error, "EPROTO")
        except OSError as error:
            return _refusal(error, errno.errorcode.get(error.errno or 0, "EIO"))

    def _result(self, request: dict[str, object], client: socket.socket) -> dict[str, object]:
        match request.get("command"):
            case "show":
                return self._show(integer(request, "after", -1), seconds(request, "timeout", _LONGEST_WAIT))
            case "resize":
                managed = self._device(request)
                managed.device.resize(integer(request, "requested_size"))
                return {"revision": self._revision, "devices": [DeviceStatus.of(managed).data()]}
            case "reclaim":
                chosen = self._devices.values() if request.get("device") is None else [self._device(request)]
                return {"bytes": {managed.name: sum(managed.device.reclaim()) for managed in chosen}}
            case "migrate":
                return self._migrations.answer(request, self._device(request), client)
            case "stats":
                uptime = time.monotonic() - self._started
                return {
                    "uptime_seconds": uptime,
                    "devices": [statistics_data(managed) for managed in self._devices.values()],
                }
            case "metrics":
                return {"text": self.metrics()}
            case "stop":
                self._stop()
                return {}
            case other:
                known = ", ".join(("show", "resize", "reclaim", "migrate", "stats", "metrics", *self._commands))
                raise ProtocolError(f"there is no command {shortened(other)}: {known} and stop there are")

    def _show(self, after: int, timeout: float) -> dict[str, object]:
        with self._change:
            self._change.wait_for(lambda: self._revision > after or self._ending, timeout)
            revision = self._revision
        return {
            "revision": revision,
            "devices": [DeviceStatus.of(managed).data() for managed in self._devices.values()],
        }

    def _device(self, request: dict[str, object]) -> ManagedDevice:
        """The device that request names; it need not name one if there is only one. Raises ProtocolError."""
        name = request.get("device")
        if name is None and len(self._devices) == 1:
            return next(iter(self._devices.values()))
        if isinstance(name, str) and name in self._devices:
            return self._devices[name]
        raise ProtocolError(f"device must be one of {', '.join(self._devices) or 'none: there are no devices'}")

    def _release(self) -> None:
        if self._inherited:
            return
        self._wake.send(b"\0")
        self._thread.join()
        self._listener.close()
        with self._change:
            self._ending = True
            self._change.notify_all()
        with self._clients_lock:
            clients = {client: state.thread for client, state in self._clients.items()}
        for client in clients:
            with suppress(OSError):  # the client has gone meanwhile
                client.shutdown(socket.SHUT_RD)
        # Whoever is being answered gets the answer, if it reads: for all of them together there is this long.
        deadline = time.monotonic() + _PARTING
        for client, thread in clients.items():
            thread.join(max(deadline - time.monotonic(), 0.0))
            if thread.is_alive():
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                thread.join()
        self._wake.close()
        self._woken.close()

    def __repr__(self) -> str:
        return f"<ControlServer {self.path}>"


@dataclass(slots=True)
class _Client:
    """thread: what serves it. idle_since: since when it is the client's turn to ask, or to read; None if it is ours."""

    thread: threading.Thread
    idle_since: float | None


def _poller(*fds: int) -> select.poll:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _may_connect(client: socket.socket) -> bool:
    """Whether the peer is this process's user or root, whatever the mode of the socket's file has become."""
    try:
        return peer_user(client) in (os.geteuid(), 0)
    except OSError:
        return False


def _refusal(error: Exception, code: str) -> dict[str, object]:
    return {"ok": False, "errno": code, "error": str(error)}
