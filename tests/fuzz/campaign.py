"""A campaign: inputs by number, and what no parser may do with one of them."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType

from tests.fuzz.mutation import mutated
from tests.fuzz.parser import Parser

PATIENCE = 5.0
"""Seconds for one input, of at most 64 KiB."""
_LONGEST_MESSAGE = 6000


class TookTooLongError(Exception):
    """An input keeps its parser busy."""


@dataclass(frozen=True, slots=True)
class Finding:
    """parser: its name. data: the input. what: what it did, and where."""

    parser: str
    data: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.parser}: {self.what}\n  input {self.data[:200]!r}{' …' if len(self.data) > 200 else ''}"


def tried(parser: Parser, data: bytes) -> Finding | None:
    """What is wrong with what parser does with data: another error than its own, or one of which nobody can be told."""
    try:
        with _watched():
            parser.run(data)
    except parser.errors as error:
        said = str(error)
        if isinstance(error, OSError) and not said.isprintable():
            return Finding(parser.name, data, f"its message cannot be printed: {said[:200]!r}")
        if len(said) > _LONGEST_MESSAGE:
            return Finding(parser.name, data, f"its message has {len(said)} characters: {said[:200]!r}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Finding(
            parser.name, data, f"{type(error).__name__} in {place.filename}:{place.lineno}: {str(error)[:200]}"
        )
    return None


def campaign(parser: Parser, seed: int, count: int, seconds: float = float("inf")) -> Iterator[Finding | None]:
    """What is wrong with each of count inputs, None for nothing; fewer if seconds are over.

    The corpus comes first. An input depends on seed and its number alone.
    """
    end = time.monotonic() + seconds
    corpus = parser.corpus
    for data in corpus:
        yield tried(parser, data)
    for number in range(count):
        if time.monotonic() > end:
            return
        yield tried(parser, mutated(Random(f"{seed} {parser.name} {number}"), corpus, parser.words))


@contextmanager
def _watched() -> Iterator[None]:
    """Raise TookTooLongError in this thread, the main one, if the block takes too long."""

    def over(_: int, __: FrameType | None) -> None:
        raise TookTooLongError(f"it takes more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
