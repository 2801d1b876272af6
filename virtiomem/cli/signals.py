"""The signals that end a program which runs until it is stopped."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

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
    with _Waker() as waker:
        loop.add(waker)
        before = {number: signal.signal(number, end) for number in numbers}
        try:
            yield reasons
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Waker:
    """A source that is ready when a signal has come.

    Python calls a handler between two instructions of its own. A signal that comes after the last of them, and before
    the loop's system call has begun to wait, interrupts nothing: the loop would wait for ever.
    """

    next_event_time = None

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self.descriptors = [self._reader.fileno()]
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        self.descriptors = []
        self._reader.close()
        self._writer.close()

    def ready(self, fd: int) -> None:
        """The handler has run by now."""
        del fd
        with suppress(BlockingIOError):
            self._reader.recv(4096)

    def flush_events(self) -> None:
        """Nothing waits."""
