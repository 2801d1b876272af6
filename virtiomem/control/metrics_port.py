"""MetricsPort: serves metrics over HTTP, to this machine only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from virtiomem.control.metrics import CONTENT_TYPE

LOOPBACK = "127.0.0.1"


class MetricsPort(Resource):
    """Answers GET /metrics at a port of the loopback interface, until close(). It has no other path."""

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        """port 0 is any port that is free. text: returns the metrics. Raises VfioError if the port is taken."""
        try:
            self._server = _Server((LOOPBACK, port), _Handler)
        except OSError as error:
            code = error.errno or 0
            raise VfioError(
                code, "serve metrics", {"address": f"{LOOPBACK}:{port}"}, advice="Choose another port"
            ) from error
        self._server.text = text
        super().__init__()
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://{LOOPBACK}:{self._server.server_port}/metrics"

    def _release(self) -> None:
        if not self._inherited:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __repr__(self) -> str:
        return f"<MetricsPort {self.url}>"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    text: Callable[[], str]


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    server: _Server

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(404, "Only /metrics is here")
            return
        body = self.server.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 (the base class's signature)
        """Log nothing: standard error belongs to the manager."""
