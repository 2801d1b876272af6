"""Output: where the results of a command go, as text for people or as JSON for programs, never both."""

from __future__ import annotations

import enum
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from pyvfio.texts import printable

WIDTH = 100
"""Columns of a line that does not go to a terminal."""
_NARROWEST = 80
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CODE = re.compile(rf"({_ESCAPE.pattern})|(\x1b|[^\x1b]+)")


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

    Whatever a text holds that others have written, it moves no cursor, sets no title and forges no line of a table:
    what cannot be printed is printed as its escape, but for the newlines of a text and, if colour is True, colours.
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
            print(self._safe(line), file=self.stream, flush=True)

    def redraw(self, lines: Iterable[str]) -> None:
        """Print lines in place of all that the terminal shows; nothing if a program reads."""
        if not self.json:
            print("\x1b[H\x1b[2J" + "\n".join(map(self._safe, lines)), file=self.stream, flush=True)

    def redraw_line(self, line: str = "") -> None:
        """Print line in place of the one in which the cursor is, and stay in it; nothing if a program reads."""
        if not self.json:
            print(f"\r\x1b[K{printable(line)}", end="", file=self.stream, flush=True)

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

    def _safe(self, text: str) -> str:
        """text as the class says."""
        lines = text.split("\n")
        if not self.colour:
            return "\n".join(map(printable, lines))
        return "\n".join(_CODE.sub(lambda found: found[1] or printable(found[2]), line) for line in lines)

    @property
    def width(self) -> int:
        """Columns of a line: the terminal's, but at least 80, or WIDTH if there is no terminal."""
        return max(shutil.get_terminal_size((WIDTH, 1)).columns, _NARROWEST) if self.terminal else WIDTH

    @staticmethod
    def table_width(rows: Iterable[Sequence[str]]) -> int:
        """Columns of the longest line that table() prints if it cuts nothing."""
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        return sum(widths) + 2 * (len(widths) - 1)

    def table(self, rows: Iterable[Sequence[str]], *, cut: Mapping[int, int] | None = None) -> None:
        """Print rows of equally many cells, in columns two blanks apart. The first row is the header. Cells may be
        painted.

        cut: the columns that may be cut for the rows to fit width, by number, and how many characters each keeps; the
        first is cut first. Rows that do not fit even then are longer. Raises ValueError if the rows differ in their
        number of cells.
        """
        lines = [[self._safe(cell).replace("\n", "\\n") for cell in row] for row in rows]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        excess = self.table_width(lines) - self.width
        for column, least in (cut or {}).items():
            less = min(max(excess, 0), max(widths[column] - least, 0))
            widths[column] -= less
            excess -= less
        for number, row in enumerate(lines):
            fitting = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
            cells = [cell + " " * (width - _width(cell)) for cell, width in zip(fitting, widths, strict=True)]
            line = "  ".join(cells).rstrip()
            self.text(self.paint(line, Style.BOLD) if number == 0 else line)


def _width(cell: str) -> int:
    return len(_ESCAPE.sub("", cell))


def _cut(cell: str, width: int) -> str:
    """The cell, or as much of it as fits in width columns before a "…", painted as the cell is."""
    if _width(cell) <= width:
        return cell
    plain = _ESCAPE.sub("", cell)
    return cell.replace(plain, plain[: width - 1].rstrip() + "…")
