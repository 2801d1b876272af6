"""Run cases and random sequences here, beside the simulated kernel, and report each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence

from tests.conformance.areas import AREAS
from tests.conformance.machine import Machine, SimulatedMachine, real_machine
from tests.conformance.report import RANDOM, Finding, Subject, as_line
from tests.conformance.run import run_case
from tests.conformance.sequence import CALLS_PER_SEQUENCE, compare, has_sequences


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the two kernels and what is expected of them agree in everything."""
    options = _parser().parse_args(arguments)
    bad = count = 0
    with real_machine() as real:
        features = real.features
        simulated = SimulatedMachine(
            real.version,
            real.iommu,
            remaps_interrupts="remapping" in features,
            iommufd="iommufd" in features,
            iommufd_container="compat" in features,
        )
        subject = Subject(os.uname().release, real.version, real.iommu, sorted(features & simulated.features))
        print(as_line(subject) if options.json else subject, flush=True)
        for finding in _findings(options, real, simulated):
            count += 1
            bad += bool(finding.trouble)
            if options.json or finding.trouble:
                print(as_line(finding) if options.json else finding, flush=True)
    if not options.json:
        print(f"{count} run, {bad} with trouble")
    return int(bad > 0)


def _findings(options: argparse.Namespace, real: Machine, simulated: Machine) -> Iterator[Finding]:
    for area, cases in AREAS.items() if not options.only_random else ():
        if options.area and area not in options.area:
            continue
        for case in cases:
            if not case.runs_on(real.version, real.iommu, real.features & simulated.features):
                continue
            theirs, ours = run_case(case, real), run_case(case, simulated)
            trouble = [f"real: {line}" for line in theirs.trouble] + [f"simulated: {line}" for line in ours.trouble]
            if not trouble:
                pairs = zip(theirs.replies, ours.replies, strict=True)
                trouble = [f"real {one}, simulated {other}" for one, other in pairs if one != other]
            yield Finding(area, case.name, trouble)
    for seed in range(options.seed, options.seed + (options.sequences if has_sequences(real.features) else 0)):
        yield Finding(RANDOM, f"seed {seed}", compare(seed, options.calls, real, simulated))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--area", action="append", choices=[*AREAS], help="only this one; may be repeated")
    parser.add_argument("--only-random", action="store_true", help="no cases")
    parser.add_argument("--sequences", type=int, default=0, metavar="N", help="random sequences after the cases")
    parser.add_argument("--seed", type=int, default=1, help="of the first sequence (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=CALLS_PER_SEQUENCE, help="in a sequence (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a line for each, also where all is well")
    return parser
