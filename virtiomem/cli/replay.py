"""virtiomem replay"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from pyvfio.commandline import Command, Output
from virtiomem import trace


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the trace; - for standard input")


def _run(options: argparse.Namespace, output: Output) -> int:
    with nullcontext(sys.stdin) if options.file == "-" else Path(options.file).open(encoding="utf-8") as lines:
        for answer in trace.replay(lines):
            output.record(answer)
            if not output.json:
                output.text(trace.describe(answer))
    return 0


COMMAND = Command(
    "replay",
    "play a trace of guest requests (JSON Lines) and print the answers",
    _run,
    _configure,
    json="one JSON line per line of the trace",
    examples=(("virtiomem replay --json trace.jsonl | jq .response", "every answer"),),
)
