"""The option --record of commands that have a guest whose requests can be recorded."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO


def add_record(parser: argparse.ArgumentParser) -> None:
    """Add --record."""
    parser.add_argument("--record", metavar="FILE", help="write what the guest asks to FILE, for virtiomem replay")


def recording(options: argparse.Namespace) -> AbstractContextManager[TextIO | None]:
    """Open the file of --record, to write it from its start; None without the option."""
    return trace_file(options.record)


def trace_file(path: str | None) -> AbstractContextManager[TextIO | None]:
    """Open the file at path, to write it from its start; None without a path."""
    return nullcontext() if path is None else Path(path).open("w", encoding="utf-8")
