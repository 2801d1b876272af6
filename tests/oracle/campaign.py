"""Many random traces, judged by one QEMU."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from tests.oracle.comparison import Compare, Comparison, compare_requests, shrunk
from tests.oracle.differences import Difference
from tests.oracle.emulator import version
from tests.oracle.mappings import compare_mappings
from tests.oracle.observation import Line
from tests.oracle.sequences import RandomTrace


@dataclass(slots=True)
class Campaign:
    """What came of it. complete: sequences played to their end; the others ended at a difference on purpose."""

    complete: int = 0
    steps: int = 0
    calls: int = 0
    seconds: float = 0.0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: Counter[Difference] = field(default_factory=Counter)

    def add(self, comparison: Comparison) -> None:
        self.complete += comparison.complete
        self.steps += comparison.steps
        self.calls += comparison.calls
        self.answers += comparison.answers
        self.differences += comparison.differences

    def __str__(self) -> str:
        lines = [f"{self.complete} sequences, {self.steps} steps, {self.calls} DMA calls, {self.seconds:.1f} s"]
        lines += [f"  {asked:12} {answer:8} {times:6}" for (asked, answer), times in sorted(self.answers.items())]
        lines += [f"  {difference.value:21} {times:6}" for difference, times in self.differences.items()]
        return "\n".join(lines)


class Disagreed(AssertionError):
    """A sequence on which the two do not agree, as a trace that virtiomem replay plays."""

    def __init__(self, seed: int, what: object, lines: Iterable[Line]) -> None:
        trace = "\n".join(map(json.dumps, lines))
        super().__init__(f"seed {seed}, {what}\n{trace}")


def requests(program: Path, *, seed: int, sequences: int, steps: int) -> Campaign:
    """What is answered, on random traces from seed on until so many are complete. Raises Disagreed."""

    def trace(number: int) -> Sequence[Line]:
        return RandomTrace(number, persistent_suspend=version(program) >= (9, 2)).lines(steps)

    return _judged(trace, lambda lines: compare_requests(lines, program), seed, sequences)


def mappings(program: Path, *, seed: int, sequences: int, steps: int) -> Campaign:
    """What is answered, mapped and unmapped, while maps are refused now and then. Raises Disagreed."""

    def trace(number: int) -> Sequence[Line]:
        return RandomTrace(number, persistent_suspend=True, refusals=True).lines(steps)

    return _judged(trace, lambda lines: compare_mappings(lines, program), seed, sequences)


def _judged(trace: Callable[[int], Sequence[Line]], compare: Compare, seed: int, sequences: int) -> Campaign:
    def judged(number: int) -> Comparison:
        try:
            return compare(trace(number))
        except Exception as error:
            error.add_note(f"seed {number}")
            raise

    campaign, started = Campaign(), time.monotonic()
    seeds = count(seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while campaign.complete < sequences:
            batch = list(islice(seeds, sequences - campaign.complete))
            results = pool.map(judged, batch)
            for number, comparison in zip(batch, results, strict=True):
                campaign.add(comparison)
                if comparison.disagreement:
                    lines, disagreement = shrunk(trace(number), compare)
                    raise Disagreed(number, disagreement, lines)
    campaign.seconds = time.monotonic() - started
    return campaign
