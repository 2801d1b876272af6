"""Run the long form of the promises, and write docs/reliability.md: `python -m tests.torture [--short]`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.torture.part import Outcome, Part
from tests.torture.parts import PARTS
from tests.torture.report import write


def outcome(part: Part, count: int) -> Outcome:
    """Run a part."""
    begin, done = time.monotonic(), 0
    failures: list[str] = []
    for found in part.run(count):
        done += 1
        if found is not None:
            failures.append(found)
    return Outcome(part, done, tuple(failures), time.monotonic() - begin)


def main() -> int:
    """Print and write what each part has come to; the exit status is 1 if one has found anything."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--short", action="store_true", help="as little as CI does, which is written nowhere")
    parser.add_argument("--share", type=float, default=1.0, help="of the long form: 0.1 is a tenth")
    parser.add_argument("--only", action="append", choices=names, help="may be repeated; it is written nowhere")
    options = parser.parse_args()
    outcomes = []
    for part in PARTS:
        if options.only and part.name not in options.only:
            continue
        count = part.short if options.short else max(int(part.long * options.share), part.short)
        outcomes.append(result := outcome(part, count))
        print(
            f"{part.name:<10} {result.count:>9,} {part.unit:<8} {len(result.failures):>3} failures "
            f"{result.seconds:7.0f} s",
            flush=True,
        )
        for failure in result.failures[:10]:
            print(f"  {failure}", flush=True)
    if not options.short and not options.only:
        write(outcomes)
    return int(any(each.failures for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
