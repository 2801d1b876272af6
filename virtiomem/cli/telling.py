"""What a command says while it runs for long: nobody who does not read it can hold the command up."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self, TextIO, cast

from pyvfio.commandline import Output
from pyvfio.texts import printable

_MOST_LINES: Final = 1000
"""How many lines wait for their reader; later ones are left out."""
_PATIENCE: Final = 1.0
"""Seconds that whoever closes waits for the reader of what is left."""


class Teller(io.TextIOBase):
    """A text stream that another thread writes to stream, line by line: no method of it waits for a reader.

    What is written while the reader is too far behind is left out, and counted.
    """

    def __init__(self, stream: TextIO, *, counts: bool = True) -> None:
        """stream stays the caller's, and nobody else writes to it before close(). counts: say how much was left out."""
        self._stream = stream
        self._counts = counts
        self._part = ""
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._ending = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._pass_on, name="telling", daemon=True)
        self._thread.start()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take text. Returns at once."""
        with self._change:
            *lines, self._part = (self._part + text).split("\n")
            for line in lines:
                self._take(f"{line}\n")
            self._change.notify_all()
        return len(text)

    def close(self) -> None:
        """Have the rest written, as far as its reader takes it within a second. Closing twice is harmless."""
        with self._change:
            self._ending = True
            if self._part:
                self._take(self._part)
                self._part = ""
            self._change.notify_all()
        self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, line: str) -> None:
        if len(self._lines) >= _MOST_LINES:
            self._left_out += 1
            return
        if self._left_out and self._counts:
            self._lines.append(f"{self._left_out} lines are left out here: nobody read them\n")
        self._left_out = 0
        self._lines.append(line)

    def _pass_on(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._lines or self._ending)
                if not self._lines:
                    return
                text = "".join(self._lines)
                self._lines.clear()
            try:
                _write(self._stream, text)
            except (OSError, ValueError):
                # The reader has gone: there is nobody to tell that to.
                continue


def _write(stream: TextIO, text: str) -> None:
    """Write text past the stream's own buffer, whose lock Python needs when it ends."""
    try:
        fd = stream.fileno()
    except (OSError, AttributeError):
        stream.write(text)
        return
    data = memoryview(text.encode(stream.encoding or "utf-8", "replace"))
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            # Whoever shares the terminal has made it so.
            time.sleep(0.05)


class _Formatter(logging.Formatter):
    """A message is a line of its own, whatever names it has in it. A traceback follows it in lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        return printable(super().formatMessage(record))


@contextmanager
def telling(output: Output) -> Iterator[Output]:
    """For the length of a with block: an Output in place of output, and a log on standard error, that never wait."""
    output.stream.flush()
    with Teller(output.stream, counts=not output.json) as results, Teller(sys.stderr) as errors:
        handler = logging.StreamHandler(cast(TextIO, errors))
        handler.setLevel(logging.WARNING)
        handler.setFormatter(_Formatter())
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield Output(cast(TextIO, results), json=output.json)
        finally:
            root.removeHandler(handler)
