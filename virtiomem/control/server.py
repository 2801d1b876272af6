"""ControlServer: a unix socket through which its owner looks at managed devices and resizes them."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from pyvfio.resource import Resource
from virtiomem.control.managed import ManagedDevice
from virtiomem.control.metrics import metrics
from virtiomem.control.protocol import LARGEST_REQUEST, ProtocolError, integer, line_of, read_object, seconds
from virtiomem.control.statistics import statistics_data
from virtiomem.control.status import DeviceStatus
from virtiomem.serving import Listener

_LONGEST_WAIT = 60.0
_MOST_CLIENTS = 64
_PATIENCE = 10.0
"""Seconds after which the connection of a client that does not read its answer is closed."""


class ControlServer(Resource):
    """Serves path from the beginning, in threads of its own, until close(). docs/control.md describes the protocol.

    Only the socket's owner may use it: whoever connects must be the user of this process, or root. Close the server
    last of all: a client that has asked for a stop waits for that, and takes it to mean that everything is closed.
    """

    def __init__(self, path: str, stop: Callable[[], None]) -> None:
        """stop: what the stop command calls. Raises VfioError if the socket cannot be made."""
        self.path = path
        self._devices: dict[str, ManagedDevice] = {}
        self._stop = stop
        self._started = time.monotonic()
        self._revision = 0
        self._ending = False
        self._change = threading.Condition()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._clients_lock = threading.Lock()
        self._listener = Listener(path)
        self._wake, self._woken = socket.socketpair()
        super().__init__()
        self._thread = threading.Thread(target=self._accept, name=f"control {path}", daemon=True)
        self._thread.start()

    def manage(self, managed: ManagedDevice) -> None:
        """Show a device and take resizes for it, until forget(). The device stays the caller's."""
        self._devices = {**self._devices, managed.name: managed}
        self.changed()

    def forget(self, name: str) -> None:
        """Show the device called name no more. Call it before the device is closed."""
        self._devices = {other: managed for other, managed in self._devices.items() if other != name}
        self.changed()

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
        poller = _poller(self._listener.fileno(), self._woken.fileno())
        while self._woken.fileno() not in [fd for fd, _ in poller.poll()]:
            client = self._listener.accept()
            if client is None:
                continue
            with self._clients_lock:
                if len(self._clients) >= _MOST_CLIENTS or not _may_connect(client):
                    client.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._clients[client] = thread
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            # Only sending has a limit: a client that asks nothing may stay.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_PATIENCE), 0))
            with client, client.makefile("rb") as requests:
                self._converse(client, requests)
        except OSError:
            pass  # the client is gone, or does not read
        finally:
            with self._clients_lock:
                self._clients.pop(client, None)

    def _converse(self, client: socket.socket, requests: BinaryIO) -> None:
        """Answer requests until the client has no more, or breaks the protocol."""
        try:
            while (request := read_object(requests, LARGEST_REQUEST)) is not None:
                client.sendall(line_of(self._answer(request)))
        except ProtocolError as error:
            client.sendall(line_of(_refusal(error, "EPROTO")))

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        try:
            return {"ok": True, "result": self._result(request)}
        except ProtocolError as error:
            return _refusal(error, "EPROTO")
        except OSError as error:
            return _refusal(error, errno.errorcode.get(error.errno or 0, "EIO"))

    def _result(self, request: dict[str, object]) -> dict[str, object]:
        match request.get("command"):
            case "show":
                return self._show(integer(request, "after", -1), seconds(request, "timeout", _LONGEST_WAIT))
            case "resize":
                managed = self._device(request)
                managed.device.resize(integer(request, "requested_size"))
                return {"revision": self._revision, "devices": [DeviceStatus.of(managed).data()]}
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
                raise ProtocolError(f"there is no command {other!r}: show, resize, stats, metrics and stop there are")

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
            clients = dict(self._clients)
        for client, thread in clients.items():
            with suppress(OSError):  # the client has gone meanwhile
                client.shutdown(socket.SHUT_RD)
            thread.join()
        self._wake.close()
        self._woken.close()

    def __repr__(self) -> str:
        return f"<ControlServer {self.path}>"


def _poller(*fds: int) -> select.poll:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _may_connect(client: socket.socket) -> bool:
    """Whether the peer is this process's user or root, whatever the mode of the socket's file has become."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return user in (os.geteuid(), 0)


def _refusal(error: Exception, code: str) -> dict[str, object]:
    return {"ok": False, "errno": code, "error": str(error)}
