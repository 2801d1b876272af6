"""Mutant: a fault in one place of one file, the rule that it breaks, and the tests that are to catch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """file: from the root. old: what stands there once. new: what is put in its place. rule: what does not hold then.

    tests: as pytest names them; the first that fails has caught it.
    """

    file: str
    old: str
    new: str
    rule: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.rule}"

    def mutated(self, text: str) -> str:
        """text with the fault in it. Raises ValueError unless old stands there exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self}: {self.old!r} stands there {count} times")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Rules:
    """The mutants of one file, or of a few files that have tests in common: Rules(file)(old, new, rule, *tests)."""

    file: str

    def __call__(self, old: str, new: str, rule: str, *tests: str) -> Mutant:
        return Mutant(self.file, old, new, rule, tests)
