"""Worker: a thread that serves sources of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from pyvfio.kernel import Kernel
from pyvfio.resource import Resource
from virtiomem.serving.event_loop import EventLoop, Source

_log = logging.getLogger(__package__)


class Worker(Resource):
    """Serves sources in a thread from the beginning until close(). The sources stay the caller's, who uses them in no
    other thread meanwhile."""

    def __init__(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        kernel: Kernel | None = None,
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        """name: the thread's. kernel: the one that waits (default: Linux). failed: called, in the thread, with what no
        source may raise and one has: nothing is served any more then.
        """
        self._name = name
        self._failed = failed
        self._loop = EventLoop(sources, kernel=kernel)
        super().__init__()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception as error:
            _log.exception("%s: it serves no more", self._name)
            self._failed(error)

    def _release(self) -> None:
        # A forked child has no such thread.
        if not self._inherited:
            self._loop.stop()
            self._thread.join()
        self._loop.close()

    def __repr__(self) -> str:
        return f"<Worker {self._name}>"
