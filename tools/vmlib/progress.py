"""What takes a while says so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Lines on a stream; on a terminal, one that is kept up to date."""

    def __init__(self, stream: TextIO | None = None, *, in_place: bool | None = None) -> None:
        """stream: standard error by default. in_place: whether a line may be rewritten; by default on a terminal."""
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty() if in_place is None else in_place

    def say(self, text: str) -> None:
        print(f"vm: {text}", file=self._stream, flush=True)

    @contextmanager
    def during(self, text: str) -> Iterator[Callable[[str], None]]:
        """For something long: what it yields may be called with how far it is, as often as one likes."""
        start = shown = time.monotonic()
        self.say(text)

        def report(how_far: str) -> None:
            nonlocal shown
            now = time.monotonic()
            if self._in_place and now - shown > 0.5:
                shown = now
                print(f"\r\033[Kvm: {text}: {how_far}, {now - start:.0f} s", end="", file=self._stream, flush=True)

        try:
            yield report
        finally:
            if shown > start:
                print("\r\033[K", end="", file=self._stream, flush=True)
        self.say(f"done {text}: {time.monotonic() - start:.0f} s")
