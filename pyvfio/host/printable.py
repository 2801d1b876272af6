"""Names that others have chosen, made fit to be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """text with every character that could move a terminal's cursor, or end a line, written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
