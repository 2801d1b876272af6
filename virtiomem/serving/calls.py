"""Calls: what other threads have done in the thread of a loop."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Generic, TypeVar

from pyvfio.errors import DeviceBusy
from pyvfio.kernel import EventFd, Kernel, LinuxKernel

T = TypeVar("T")


class Calls:
    """A Source that calls what other threads hand it, between two turns: so it needs no locks of what a loop serves."""

    next_event_time = None

    def __init__(self, *, kernel: Kernel | None = None) -> None:
        """kernel: the one that waits (default: Linux)."""
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._fd = EventFd(kernel or LinuxKernel(), "calls", is_owned=True)
        self.descriptors = [self._fd.fileno()]

    def make(self, operation: str, function: Callable[[], T], patience: float) -> T:
        """Have function called by the loop; return what it returns, and raise what it raises.

        operation: what a message calls it. Raises DeviceBusy if the loop has not begun with it after patience seconds:
        it is not called then. Raises ClosedError after close().
        """
        call = _Call(function)
        with self._lock:
            self._waiting.append(call.make)
        self._fd.signal()
        try:
            return call.future.result(patience)
        except Late:
            if not call.future.cancel():
                # It has begun, and ends by itself. What it raises may be of this kind, too.
                return call.future.result()
            meaning = f"the thread that serves it has not come to it for {patience:.0f} seconds, and why is not known"
            raise DeviceBusy(
                errno.EBUSY, operation, meaning=meaning, advice="Try again, or look into the log"
            ) from None

    def ready(self, fd: int) -> None:
        """Call what waits for it."""
        del fd
        self._fd.pending()
        while True:
            with self._lock:
                if not self._waiting:
                    return
                call = self._waiting.popleft()
            call()

    def flush_events(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Call nothing any more. Closing twice is harmless. Close the loop first."""
        self.descriptors = []
        self._fd.close()


class _Call(Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self._function = function

    def make(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._function())
            except Exception as error:
                self.future.set_exception(error)
