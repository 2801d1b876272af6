"""What a rule finds."""

from __future__ import annotations

from dataclasses import dataclass

from houselib import table


@dataclass(frozen=True, slots=True)
class Violation:
    """key: names it, whatever its line. says: what is the matter and what to do, one sentence."""

    key: str
    path: str
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.says}"


def stale(rule: str, word: str, says: str) -> Violation:
    """A line of the table that is not needed: the one with word in it."""
    return Violation(f"{rule}: {word}", table.PATH, table.line_of(word), says)
