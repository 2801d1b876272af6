"""Put each fault in, and look whether a test that names the rule says so: `python -m tests.mutants [--only TEXT]`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.rules import MUTANTS
from tests.mutants.run import copied

ENOUGH = 0.95
"""How much of all has to be caught."""


def main() -> int:
    """Print who survives; the exit status is 1 if too many do."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose file or rule has TEXT in it")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th of them")
    parser.add_argument("--tests", nargs="+", metavar="TEST", help="these, to find one for a new mutant")
    parser.add_argument("-v", "--verbose", action="store_true", help="also who is caught, and by what")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in str(mutant)][:: options.every]
    begin, caught = time.monotonic(), 0
    with copied() as copy:
        for mutant in chosen:
            result = copy.run(mutant, options.tests)
            caught += result.caught
            if options.verbose or not result.caught:
                print(f"{'caught' if result.caught else 'SURVIVED'}  {mutant}  {result.caught_by or ''}", flush=True)
    print(f"{caught} of {len(chosen)} mutants caught, {time.monotonic() - begin:.0f} s")
    return int(caught < ENOUGH * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
