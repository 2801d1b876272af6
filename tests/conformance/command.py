"""Run the cases here and print what comes of them, a line of JSON each, or what differs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from tests.conformance.areas import AREAS
from tests.conformance.machine import SimulatedMachine, real_machine
from tests.conformance.run import run_case


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all agree."""
    options = _parser().parse_args(arguments)
    bad = 0
    began = time.monotonic()
    with real_machine() as real:
        simulated = SimulatedMachine(real.version, real.iommu)
        features = real.features & simulated.features
        print(f"real {real.version} {real.iommu} {sorted(real.features)} in {time.monotonic() - began:.1f} s")
        total = 0
        for area, cases in AREAS.items():
            if options.area and area not in options.area:
                continue
            for case in cases:
                if not case.runs_on(real.version, real.iommu, features):
                    continue
                total += 1
                theirs, ours = run_case(case, real), run_case(case, simulated)
                for who, record in (("real", theirs), ("simulated", ours)):
                    for line in record.trouble:
                        bad += 1
                        print(f"{area}: {case.name}: {who}: {line}")
                if theirs.replies != ours.replies and not theirs.trouble and not ours.trouble:
                    bad += 1
                    for one, other in zip(theirs.replies, ours.replies, strict=False):
                        if one != other:
                            print(f"{area}: {case.name}: differ: real {one} simulated {other}")
        print(json.dumps({"cases": total, "bad": bad, "seconds": round(time.monotonic() - began, 1)}))
    return int(bad > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--area", action="append", choices=[*AREAS])
    return parser
