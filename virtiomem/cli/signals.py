"""The signals that end a program which runs until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from virtiomem.serving import EventLoop


@contextmanager
def ending(loop: EventLoop) -> Iterator[list[str]]:
    """Let SIGTERM and SIGINT end loop for the length of a with block. The last word of the list says what ended it."""
    reasons = ["the stop command"]

    def end(number: int, _: object) -> None:
        reasons.append(signal.Signals(number).name)
        loop.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reasons
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
