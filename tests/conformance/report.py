"""What a run finds: which kernel it ran on, and how each case went there; as lines of JSON between guest and host."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from tests.conformance.case import Version

RANDOM = "random"
"""The area of random sequences."""


@dataclass(frozen=True, slots=True)
class Subject:
    """features: what the machine had beyond what every one has, and the simulated one too."""

    release: str
    version: Version
    iommu: str
    features: Sequence[str]

    def __str__(self) -> str:
        return f"Linux {self.release}, {self.iommu} IOMMU, {', '.join(self.features)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """trouble: where the real kernel, the simulated one and the expected answer differ; empty if they agree."""

    area: str
    name: str
    trouble: Sequence[str]

    def __str__(self) -> str:
        return f"{self.area}: {self.name}:" + "".join(f"\n    {line}" for line in self.trouble)


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run on one kernel."""

    subject: Subject
    findings: Sequence[Finding]

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Self:
        """What as_line() made: the subject first. Raises ValueError for anything else."""
        subject, *findings = (json.loads(line) for line in lines)
        major, minor = subject.pop("version")
        return cls(Subject(version=(major, minor), **subject), [Finding(**finding) for finding in findings])

    def troubled(self, area: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.area == area and finding.trouble]

    def count(self, area: str) -> int:
        """Of cases, or of random sequences."""
        return sum(finding.area == area for finding in self.findings)


def as_line(item: Subject | Finding) -> str:
    return json.dumps(asdict(item))
