"""Texts that others have written: their lines, words and numbers, and how they are printed.

What the kernel, a peer or a file says is taken apart at the characters that its writer takes for separators, and at no
others. Python's own splitlines() and split() know more of them, U+2028 and U+00A0 among them, which a mount point or a
file's name may have; its int() takes signs, blanks, underscores and the digits of every script.
"""

from __future__ import annotations

import re
from typing import Final

_DIGITS: Final = {
    10: re.compile(r"-?[0-9]{1,4000}"),
    16: re.compile(r"(?:0x)?[0-9a-f]{1,4000}", re.IGNORECASE),
}


def lines_of(text: str) -> list[str]:
    """The lines of a text, which newlines end or separate, and nothing else; none of an empty text."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def words_of(line: str) -> list[str]:
    """The words of a line, which blanks and tabs separate, and nothing else."""
    return [word for word in re.split("[ \t]+", line) if word]


def number_of(text: str, base: int = 10) -> int | None:
    """The whole number that a text is in base 10, with its sign, or 16, with or without 0x; None if it is none."""
    return int(text, base) if _DIGITS[base].fullmatch(text) else None


def shortened(value: object, most: int = 64) -> str:
    """value as a message may repeat it: printable, and not longer than most characters and a "…"."""
    text = printable(repr(value))
    return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """text with every character that could move a terminal's cursor, or end a line, written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
