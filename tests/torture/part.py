"""Part: one long test, with how much of it there is and what it has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """name: a word. promise: what holds. unit: what is counted. short, long: how many there are of them in CI, and in
    the long form. run: does as many, and yields after each what was found, None for nothing."""

    name: str
    promise: str
    unit: str
    short: int
    long: int
    run: Callable[[int], Iterator[str | None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a part has come to. count: how many were done. failures: what was found. seconds: how long it took."""

    part: Part
    count: int
    failures: tuple[str, ...]
    seconds: float
