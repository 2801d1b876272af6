"""Output: where the results of a command go, as text for people or as JSON for programs, never both."""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Style(enum.Enum):
    """How text looks on a terminal. The values are SGR codes."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    BLUE = "34"
    CYAN = "36"


class Output:
    """The standard output of a command.

    stream: where it goes. json: whether a program reads it. terminal: whether it is a terminal that can place its
    cursor. colour: whether paint() paints: on a terminal whose user has not set NO_COLOR (https://no-color.org).
    """

    def __init__(self, stream: TextIO, *, json: bool = False) -> None:
        """json: whether a program reads it."""
        self.stream = stream
        self.json = json
        self.terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.terminal and not os.environ.get("NO_COLOR")

    def text(self, line: str = "") -> None:
        """Print a line for people at once; nothing if a program reads."""
        if not self.json:
            print(line, file=self.stream, flush=True)

    def data(self, value: object) -> None:
        """Print the whole result if a program reads."""
        if self.json:
            print(json.dumps(value, indent=2), file=self.stream, flush=True)

    def record(self, value: object) -> None:
        """Print one of many results at once, in a line of its own, if a program reads."""
        if self.json:
            print(json.dumps(value), file=self.stream, flush=True)

    def paint(self, text: str, style: Style) -> str:
        """The text with the codes around it that make it look like style; without them if colour is False."""
        return f"\x1b[{style.value}m{text}\x1b[0m" if self.colour and style.value and text else text

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows of equally many cells, in columns two blanks apart. The first row is the header. Cells may be
        painted.

        Raises ValueError if the rows differ in their number of cells.
        """
        lines = [list(row) for row in rows]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        for number, row in enumerate(lines):
            cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
            line = "  ".join(cells).rstrip()
            self.text(self.paint(line, Style.BOLD) if number == 0 else line)


def _width(cell: str) -> int:
    return len(_ESCAPE.sub("", cell))
