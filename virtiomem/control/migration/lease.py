"""Lease: the time for which a migration outlasts the client that began it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Lease:
    """Ends after so many seconds in which nobody renews it, by a thread of its own. end() ends it before, silently."""

    def __init__(self, seconds: float, over: Callable[[Lease], object]) -> None:
        """over: called with this lease, in that thread, when the time has passed; again if it was renewed meanwhile.

        Raises RuntimeError if there is no thread left.
        """
        self._seconds = seconds
        self._over = over
        self._change = threading.Condition()
        self._ended = False
        self._deadline = time.monotonic() + seconds
        threading.Thread(target=self._wait, name="lease", daemon=True).start()

    def renew(self) -> None:
        """Begin the time anew."""
        with self._change:
            self._deadline = time.monotonic() + self._seconds

    @property
    def expired(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() >= self._deadline

    def end(self) -> None:
        """Call over() no more, unless it is being called. Ending twice is harmless."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _wait(self) -> None:
        while True:
            with self._change:
                while not self._ended and not self.expired:
                    self._change.wait(self._deadline - time.monotonic())
                if self._ended:
                    return
            self._over(self)
            # Somebody may have renewed it at that moment.
            if self.expired:
                return
