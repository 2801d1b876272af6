"""MetricsPort: serves metrics over HTTP, to this machine only."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from pyvfio.texts import lines_of
from virtiomem.control.metrics import CONTENT_TYPE

LOOPBACK = "127.0.0.1"
_HOSTS: Final = ("127.0.0.1", "localhost")
"""By what names a client may ask for this machine: a page on the web that asks by another is none of ours to answer."""
_MOST_CLIENTS: Final = 16
_LARGEST_REQUEST: Final = 8 << 10
_PATIENCE: Final = 5.0
"""Seconds from a client's connection to its end."""
_PAUSE: Final = 0.5
"""Seconds for which nobody is let in after there was no descriptor left for somebody."""


class MetricsPort(Resource):
    """Answers GET /metrics at a port of the loopback interface, until close(). It has no other path.

    One thread serves at most _MOST_CLIENTS clients at a time, each for _PATIENCE seconds; of any more than that those
    wait or are sent away who came last. Nobody who uses the port, or misuses it, has an influence on anything else.
    """

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        """port 0 is any port that is free. text: returns the metrics. Raises VfioError if the port is taken."""
        self._text = text
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((LOOPBACK, port))
            self._socket.listen()
            self._wake, self._woken = socket.socketpair()
        except (OSError, OverflowError) as error:
            self._socket.close()
            code = getattr(error, "errno", None) or errno.EINVAL
            raise VfioError(
                code, "serve metrics", {"address": f"{LOOPBACK}:{port}"}, advice="Choose another port"
            ) from error
        self._port = int(self._socket.getsockname()[1])
        self._clients: dict[int, _Client] = {}
        self._pause_end = 0.0
        super().__init__()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://{LOOPBACK}:{self._port}/metrics"

    def _serve(self) -> None:
        while True:
            ready = self._wait()
            if self._woken.fileno() in ready:
                break
            for fd in ready:
                if fd == self._socket.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._go_on(self._clients[fd])
            now = time.monotonic()
            for client in [client for client in self._clients.values() if now >= client.deadline]:
                self._end(client)
        for client in [*self._clients.values()]:
            self._end(client)

    def _wait(self) -> list[int]:
        """The descriptors with which there is something to do; none when a client's time is over."""
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        now = time.monotonic()
        ends = [client.deadline for client in self._clients.values()]
        if len(self._clients) >= _MOST_CLIENTS:
            pass
        elif now < self._pause_end:
            ends.append(self._pause_end)
        else:
            poller.register(self._socket, select.POLLIN)
        for fd, client in self._clients.items():
            poller.register(fd, select.POLLOUT if client.answer else select.POLLIN)
        patience = max(min(ends) - now, 0) * 1000 + 1 if ends else None
        return [fd for fd, _ in poller.poll(patience)]

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            self._pause_end = time.monotonic() + _PAUSE
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, time.monotonic() + _PATIENCE)

    def _go_on(self, client: _Client) -> None:
        """Take what has come of the request, or send what the client takes of the answer."""
        try:
            if client.answer:
                client.answer = client.answer[client.connection.send(client.answer) :]
                if not client.answer:
                    self._end(client)
                return
            data = client.connection.recv(_LARGEST_REQUEST)
            client.request += data
            if b"\r\n\r\n" in client.request or b"\n\n" in client.request:
                client.answer = self._answer(bytes(client.request))
            elif not data or len(client.request) > _LARGEST_REQUEST:
                self._end(client)
        except BlockingIOError:
            return
        except OSError:
            self._end(client)

    def _end(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        client.connection.close()

    def _answer(self, request: bytes) -> bytes:
        """The answer to a whole request. Source: RFC 9112."""
        # A bare carriage return ends no line, as U+0085 does not, whatever another server takes it for.
        first, *lines = (line.removesuffix("\r") for line in lines_of(request.decode("latin-1")))
        method, path, _ = [*first.split(" "), "", ""][:3]
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        hosts = [value for name, value in headers if name == "host"]
        if any(host.lower() not in (*_HOSTS, *(f"{name}:{self._port}" for name in _HOSTS)) for host in hosts):
            return _response("421 Misdirected Request", "This is no server of that name\n")
        if path != "/metrics":
            return _response("404 Not Found", "Only /metrics is here\n")
        if method != "GET":
            return _response("405 Method Not Allowed", "Only GET is allowed\n", allow="GET")
        return _response("200 OK", self._text(), kind=CONTENT_TYPE)

    def _release(self) -> None:
        if not self._inherited:
            self._wake.send(b"\0")
            self._thread.join()
        self._socket.close()
        self._wake.close()
        self._woken.close()

    def __repr__(self) -> str:
        return f"<MetricsPort {self.url}>"


@dataclass(slots=True)
class _Client:
    """connection: its own. deadline: when it ends, by the monotonic clock. answer: what it has yet to take."""

    connection: socket.socket
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    answer: bytes = b""


def _response(status: str, text: str, *, kind: str = "text/plain; charset=utf-8", allow: str = "") -> bytes:
    body = text.encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    if allow:
        lines.append(f"Allow: {allow}")
    return "\r\n".join([*lines, "", ""]).encode() + body
