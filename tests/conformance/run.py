"""Running cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.conformance.bench import Bench
from tests.conformance.case import Case
from tests.conformance.machine import Machine
from tests.conformance.step import Reply, Step


@dataclass(frozen=True, slots=True)
class Record:
    """replies: to the call under test and to the steps after it. trouble: what differs from what is expected."""

    replies: Sequence[Reply]
    trouble: Sequence[str]


def run_case(case: Case, machine: Machine) -> Record:
    """On a bench of its own, which must leave nothing charged."""
    bench = Bench(machine)
    state = bench.state()
    trouble: list[str] = []
    replies: list[Reply] = []
    try:
        for step in case.setup:
            reply = step.run(bench)
            if reply.error is not None:
                return Record([], [f"setup: {step}: {reply}"])
        replies = [step.run(bench) for step in (case.call, *(step for step, _ in case.after))]
        trouble += case.disagreements(replies, machine.version, machine.iommu)
    finally:
        left = bench.close() - state.locked - state.pinned
    if left != case.leaks:
        trouble.append(f"{left} pages stayed charged after everything was closed")
    return Record(replies, trouble)


def run_steps(steps: Sequence[Step], setup: Sequence[Step], machine: Machine) -> list[Reply]:
    """The replies to steps, after setup."""
    bench = Bench(machine)
    try:
        for step in setup:
            if (reply := step.run(bench)).error is not None:
                raise RuntimeError(f"setup: {step}: {reply}")
        return [step.run(bench) for step in steps]
    finally:
        bench.close()
