"""virtiomem replay"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

import virtiomem
from pyvfio.commandline import Command, Output
from virtiomem import trace


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the trace; - for standard input")


def _run(options: argparse.Namespace, output: Output) -> int:
    with _unlogged(), _opened(options.file) as lines:
        for answer in trace.replay(lines):
            output.record(answer)
            if not output.json:
                output.text(trace.describe(answer))
    return 0


def _opened(file: str) -> AbstractContextManager[TextIO]:
    return nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8")


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silence the log for the length of a with block: the answers say what the device would log."""
    logger = logging.getLogger(virtiomem.__name__)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


COMMAND = Command(
    "replay",
    "play a trace of guest requests (JSON Lines) and print the answers",
    _run,
    _configure,
    json="one JSON line per line of the trace",
    examples=(("virtiomem replay --json trace.jsonl | jq .response", "every answer"),),
)
