"""Lines: what a server says of its peers, who cannot fill what the host reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_MOST_LINES: Final = 20
_WINDOW: Final = 10.0
"""Seconds."""


class Lines:
    """Lets _MOST_LINES lines pass in _WINDOW seconds, and says how many it has left out: none comes of a flood.

    Safe from several threads.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._begun = 0.0
        self._passed = 0

    def say(self, line: str) -> None:
        now = time.monotonic()
        with self._lock:
            if now >= self._begun + _WINDOW:
                if self._passed > _MOST_LINES:
                    self._say(f"{self._passed - _MOST_LINES} more lines are left out")
                self._begun, self._passed = now, 0
            self._passed += 1
            if self._passed <= _MOST_LINES:
                self._say(line)
