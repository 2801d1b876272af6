"""Parser: a function that reads what somebody else has written, and the errors that it may raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CORPORA = Path(__file__).parents[1] / "data" / "corpora"


@dataclass(frozen=True, slots=True)
class Parser:
    """name: its own, and of its folder in tests/data/corpora. run: reads an input. errors: those of its docstring.

    words: what a mutation puts in, beside what it finds: names and separators of the format.
    """

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[BaseException], ...] = ()
    words: tuple[bytes, ...] = field(default=())

    @property
    def corpus(self) -> list[bytes]:
        """Inputs that mean something, or that were misread once; in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPORA / self.name).iterdir())]
