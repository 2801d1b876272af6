"""Many random traces, judged by one QEMU."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from tests.oracle.comparison import Comparison, compare, shrunk
from tests.oracle.differences import Difference
from tests.oracle.emulator import version
from tests.oracle.observation import Line
from tests.oracle.sequences import Sequence as RandomSequence


@dataclass(slots=True)
class Campaign:
    """What came of it. complete: sequences played to their end; the others ended at a difference on purpose."""

    complete: int = 0
    steps: int = 0
    seconds: float = 0.0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: Counter[Difference] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{self.complete} sequences, {self.steps} steps, {self.seconds:.1f} s"]
        lines += [f"  {asked:12} {answer:8} {times:6}" for (asked, answer), times in sorted(self.answers.items())]
        lines += [f"  ended by {difference.value}: {times}" for difference, times in self.differences.items()]
        return "\n".join(lines)


class Disagreed(AssertionError):
    """A sequence on which the two do not agree, as a trace that virtiomem replay plays."""

    def __init__(self, seed: int, what: object, lines: Iterable[Line]) -> None:
        trace = "\n".join(map(json.dumps, lines))
        super().__init__(f"seed {seed}, {what}\n{trace}")


def requests(program: Path, *, seed: int, sequences: int, steps: int) -> Campaign:
    """Play random sequences from seed on until so many are complete. Raises Disagreed, with a shortened one."""
    campaign, started = Campaign(), time.monotonic()
    seeds = count(seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while campaign.complete < sequences:
            batch = list(islice(seeds, sequences - campaign.complete))
            results = pool.map(lambda number: compare(_random(program, number, steps), program), batch)
            for number, comparison in zip(batch, results, strict=True):
                _add(campaign, comparison)
                if comparison.disagreement:
                    lines, disagreement = shrunk(_random(program, number, steps), program)
                    raise Disagreed(number, disagreement, lines)
    campaign.seconds = time.monotonic() - started
    return campaign


def _random(program: Path, seed: int, steps: int) -> Sequence[Line]:
    return RandomSequence(seed, persistent_suspend=version(program) >= (9, 2)).lines(steps)


def _add(campaign: Campaign, comparison: Comparison) -> None:
    campaign.steps += comparison.steps
    campaign.answers += comparison.answers
    if comparison.difference is None:
        campaign.complete += 1
    else:
        campaign.differences[comparison.difference] += 1
