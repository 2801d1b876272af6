"""One system call with named arguments, as data, and what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    from tests.conformance.bench import Bench

P = ParamSpec("P")

CHANGES = ("mapped", "locked", "pinned")


@dataclass(frozen=True, slots=True)
class Reply:
    """error: name of the errno, None on success. value: what the call returned. out: the argument's fields after it.

    mapped, locked, pinned: what the call changed: mappings of the container, and pages charged to the process, by type1
    (VmLck) and by iommufd (VmPin).
    """

    error: str | None = None
    value: int = 0
    out: Mapping[str, object] = field(default_factory=dict)
    mapped: int = 0
    locked: int = 0
    pinned: int = 0

    def __str__(self) -> str:
        parts = [self.error or f"{self.value}"]
        parts += [f"{name}={_hex(value)}" for name, value in self.out.items()]
        parts += [f"{name} {value:+d}" for name in CHANGES if (value := getattr(self, name))]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    arguments: Mapping[str, object]

    def run(self, bench: Bench) -> Reply:
        """Make the call and see what it changed."""
        before = bench.before or bench.state()
        reply = CALLS[self.name](bench, **self.arguments)
        after = bench.before = bench.state()
        mapped = before.left - after.left if before.left is not None and after.left is not None else 0
        locked, pinned = after.locked - before.locked, after.pinned - before.pinned
        return replace(reply, mapped=mapped, locked=locked, pinned=pinned)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={_hex(value)}' for name, value in self.arguments.items())})"


CALLS: dict[str, Callable[..., Reply]] = {}


def call(function: Callable[Concatenate[Bench, P], Reply]) -> Callable[P, Step]:
    """Decorator: what the function does on a bench becomes a step of that name; arguments are given by name."""
    CALLS[function.__name__] = function

    @functools.wraps(function)
    def step(*_: P.args, **arguments: P.kwargs) -> Step:
        return Step(function.__name__, arguments)

    return step


def _hex(value: object) -> str:
    if isinstance(value, Step):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return repr(value)
    return f"{value:#_x}" if abs(value) > 9 else str(value)
