"""What a case is: steps that prepare, the call under test, what it answers, and steps that show the state after it."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.conformance.step import CHANGES, Reply, Step

Version = tuple[int, int]

_NEEDS = {"open_iommufd": "iommufd", "open_node": "cdev", "open_container": "type1", "add_virtual": "nvme"}
"""What steps need of a machine wherever they stand; a case that needs "compat" means that of iommufd by a container."""


@dataclass(frozen=True, slots=True)
class Ok:
    """Success. out: what the call must return (value) and write (a struct's fields), as far as named here.

    mapped: how many more mappings the container holds after it; locked, pinned: how many more pages are charged, by
    type1 (VmLck) and by iommufd (VmPin; None if it is not what the case is about).
    """

    out: Mapping[str, object] = field(default_factory=dict)
    mapped: int = 0
    locked: int = 0
    pinned: int | None = None


@dataclass(frozen=True, slots=True)
class ByVersion:
    """answers: from which kernel version on the answer is which; the oldest key is for all before it too."""

    answers: Mapping[Version, Expected]


@dataclass(frozen=True, slots=True)
class ByIommu:
    """answers: by IOMMU model."""

    answers: Mapping[str, Expected]


Expected = int | Ok | ByVersion | ByIommu
"""An int is the errno of a failure, which must have changed nothing: neither mappings nor charges."""


def ok(*, mapped: int = 0, locked: int = 0, pinned: int | None = None, **out: object) -> Ok:
    return Ok(out, mapped, locked, pinned)


def since(answers: Mapping[Version, Expected]) -> ByVersion:
    return ByVersion(answers)


def by_iommu(**answers: Expected) -> ByIommu:
    return ByIommu(answers)


@dataclass(frozen=True, slots=True)
class Case:
    """name: what is shown, unique in its area. needs: what the machine must have ("pair", "noiommu", ...).

    models: IOMMU models it is about, empty for all; versions: first and last kernel version, for what others lack.
    leaks: pages that stay charged for good, as the kernel has it.
    """

    name: str
    setup: Sequence[Step]
    call: Step
    answer: Expected
    after: Sequence[tuple[Step, Expected]] = ()
    needs: Sequence[str] = ()
    models: Sequence[str] = ()
    versions: tuple[Version, Version] = ((0, 0), (99, 0))
    leaks: int = 0

    def runs_on(self, version: Version, iommu: str, features: frozenset[str]) -> bool:
        first, last = self.versions
        is_model = not self.models or iommu in self.models
        steps = (*self.setup, self.call)
        needs = {*self.needs, *(_NEEDS[step.name] for step in steps if step.name in _NEEDS)}
        needs |= {"mdev"} if any(step.arguments.get("device") == "mdev" for step in steps) else set()
        if "compat" in needs:
            needs.discard("type1")
        is_without = "noiommu" in needs
        return is_model and first <= version <= last and needs <= features and is_without == ("noiommu" in features)

    def disagreements(self, replies: Sequence[Reply], version: Version, iommu: str) -> list[str]:
        """How the replies to the call and to the steps after it differ from what is expected of them."""
        expectations = [(self.call, self.answer), *self.after]
        return [
            f"{step}: expected {describe(expected, version, iommu)}, got {reply}"
            for (step, expected), reply in zip(expectations, replies, strict=True)
            if not _agrees(_resolve(expected, version, iommu), reply)
        ]


def describe(expected: Expected, version: Version, iommu: str) -> str:
    plain = _resolve(expected, version, iommu)
    if isinstance(plain, int):
        return errno.errorcode[plain]
    changes = {name: value for name in CHANGES if (value := getattr(plain, name))}
    return str(Reply(out=dict(plain.out) | changes))


def _resolve(expected: Expected, version: Version, iommu: str) -> int | Ok:
    match expected:
        case ByVersion():
            known = sorted(expected.answers)
            chosen = max((each for each in known if each <= version), default=known[0])
            return _resolve(expected.answers[chosen], version, iommu)
        case ByIommu():
            return _resolve(expected.answers[iommu], version, iommu)
        case _:
            return expected


def _agrees(expected: int | Ok, reply: Reply) -> bool:
    if isinstance(expected, int):
        return reply.error == errno.errorcode[expected] and not any(getattr(reply, name) for name in CHANGES)
    seen = {"value": reply.value, **reply.out}
    return (
        reply.error is None
        and all(name in seen and seen[name] == value for name, value in expected.out.items())
        and all(getattr(expected, name) in (None, getattr(reply, name)) for name in CHANGES)
    )
