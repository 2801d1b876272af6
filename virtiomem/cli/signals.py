"""The signals that end a program which runs until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from virtiomem.serving import EventLoop

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def ending(loop: EventLoop) -> Iterator[list[str]]:
    """Let SIGTERM, SIGINT and SIGHUP end loop for the length of a with block.

    Enter it before anything is made that a process leaves behind, and leave it when that is gone: a signal that comes
    in between ends the loop as soon as it runs. The last word of the list says what ended it. A signal that is ignored
    stays so, as nohup wants it.
    """
    reasons = ["the stop command"]

    def end(number: int, _: object) -> None:
        reasons.append(signal.Signals(number).name)
        loop.stop()

    numbers = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield reasons
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
