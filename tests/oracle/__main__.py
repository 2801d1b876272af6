"""python -m tests.oracle: as many random sequences as wanted, from any seed."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from vmlib.qemu import recent_qemu

from tests.oracle import campaign
from tests.oracle.judges import JUDGES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description="Play random traces beside QEMU.")
    parser.add_argument("--seed", type=int, default=0, help="of the first sequence; the next has the next")
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--judge", choices=JUDGES, default="machine", help="which QEMU")
    parser.add_argument("--mappings", action="store_true", help="compare DMA mappings, too, with the recent QEMU")
    options = parser.parse_args()
    # What is busy or broken is what is wanted here.
    logging.getLogger("virtiomem").setLevel(logging.ERROR)
    judge, play = (recent_qemu, campaign.mappings) if options.mappings else (JUDGES[options.judge], campaign.requests)
    try:
        print(play(judge(), seed=options.seed, sequences=options.sequences, steps=options.steps))
    except campaign.Disagreed as disagreed:
        print(disagreed)
        return 1
    return 0


sys.exit(main())
