"""docs/conformance.md: all cases on real kernels, and how many of them agree."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vmlib.hardware import IOMMUS
from vmlib.kernels import KERNELS

from tests.conformance.areas import AREAS
from tests.conformance.guest import report_from
from tests.conformance.report import RANDOM, Report
from tests.conformance.sequence import CALLS_PER_SEQUENCE
from tests.support.vm.worker import available_memory, slot_count

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/conformance.md"

TARGETS = (
    "debian-6.1-intel",
    "debian-6.12-intel",
    "debian-6.18-intel",
    "debian-7-intel",
    "built-intel",
    "built-compat-intel",
    "built-none",
    "debian-6.1-amd",
    "debian-7-amd",
    "built-amd",
    "debian-6.12-virtio",
    "built-virtio",
)

_HEAD = """# Conformance

`make conformance` wrote this on {date}. Every case of `tests/conformance` ran on each of these kernels in a virtual
machine, and there on the simulated kernel of the same version and IOMMU model. A case is raw system calls that prepare,
the call under test, what it must answer, what it must have changed (mappings left, pages charged), and calls that show
the state after it. A cell says in how many cases the real and the simulated kernel gave the expected answer, and the
same in every field they wrote. Not every case is for every kernel and IOMMU.

{cases} cases, {sequences} random sequences of {calls} calls, {kernels} kernels:
{total} comparisons, **{bad} disagreements**.

"""

_TAIL = """
The random sequences have seeds 1 to {sequences}. Any other, and one area alone, on any kernel:

    tools/vm --kernel debian-6.12 -- python -m tests.conformance --only-random --seed 12345 --sequences 10
    tools/vm --kernel debian-6.12 -- python -m tests.conformance --area dirty

A disagreement in a sequence is shrunk, running on both kernels, to the shortest one that shows it, and printed as a
list of calls.

[What the cases do not reach](conformance-gaps.md), and why.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all agree; the document is written anew in any case."""
    options = _parser().parse_args(arguments)

    def report(target: str) -> Report:
        kernel, _, iommu = target.rpartition("-")
        found = report_from(kernel, iommu, ["--sequences", str(options.sequences)])
        bad = [finding for finding in found.findings if finding.trouble]
        print("\n".join([f"{target}: {len(found.findings)} run, {len(bad)} disagree", *map(str, bad)]), flush=True)
        return found

    with ThreadPoolExecutor(slot_count(os.cpu_count() or 1, available_memory())) as machines:
        reports = list(machines.map(report, options.target or TARGETS))
    text = document(reports, options.sequences, datetime.datetime.now(datetime.UTC).date())
    options.output.write_text(text)
    return int(any(finding.trouble for report in reports for finding in report.findings))


def document(reports: Sequence[Report], sequences: int, date: datetime.date) -> str:
    total = sum(len(report.findings) for report in reports)
    bad = sum(bool(finding.trouble) for report in reports for finding in report.findings)
    head = _HEAD.format(
        date=date,
        cases=sum(map(len, AREAS.values())),
        sequences=sequences,
        calls=CALLS_PER_SEQUENCE,
        kernels=len(reports),
        total=total,
        bad=bad,
    )
    titles = [_title(report) for report in reports]
    rows = [["area", *titles], ["---"] * (len(reports) + 1)]
    for area in (*AREAS, RANDOM):
        rows.append([area, *(_cell(report, area) for report in reports)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return head + table + _TAIL.format(sequences=sequences)


def _title(report: Report) -> str:
    subject = report.subject
    return f"{subject.release}, {subject.iommu}" + (", iommufd's container" if "compat" in subject.features else "")


def _cell(report: Report, area: str) -> str:
    count, bad = report.count(area), len(report.troubled(area))
    return f"{count - bad} of {count}" if count else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.document", description=__doc__)
    choices = [f"{kernel}-{iommu}" for kernel in KERNELS for iommu in IOMMUS]
    parser.add_argument(
        "--target", action="append", choices=choices, metavar="KERNEL-IOMMU", help="default: see TARGETS"
    )
    parser.add_argument("--sequences", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=DOCUMENT, metavar="FILE", help="default: docs/conformance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
