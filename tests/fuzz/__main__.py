"""Feed the parsers: `python -m tests.fuzz --count 100000`; or one of them, guided by coverage: `--atheris NAME`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.campaign import Finding, campaign
from tests.fuzz.guided import guided
from tests.fuzz.parsers import PARSERS


def main() -> int:
    """Print what each parser did; the exit status is 1 if one did what it may not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="mutated inputs for each parser")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most so long for each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="NAME", choices=sorted(PARSERS), help="may be repeated")
    parser.add_argument("--atheris", metavar="NAME", choices=sorted(PARSERS), help="this parser, until Ctrl-C")
    options = parser.parse_args()
    if options.atheris:
        return guided(PARSERS[options.atheris])
    found: list[Finding] = []
    total = 0
    for name in options.only or sorted(PARSERS):
        begin, count = time.monotonic(), 0
        kinds: dict[str, Finding] = {}
        for finding in campaign(PARSERS[name], options.seed, options.count, options.seconds):
            count += 1
            if finding is not None:
                kinds.setdefault(finding.what.split(": ")[0], finding)
        total += count
        print(f"{name:<24} {count:>8} inputs  {time.monotonic() - begin:6.1f} s  {len(kinds)} findings", flush=True)
        for finding in kinds.values():
            print(f"  {finding}", flush=True)
        found += kinds.values()
    print(f"{total} inputs, {len(found)} findings")
    return int(bool(found))


sys.exit(main())
