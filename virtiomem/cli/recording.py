"""The option of commands with a guest whose requests can be recorded."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO


def add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", metavar="FILE", help="write what the guest asks to FILE, for virtiomem replay")


def recording(options: argparse.Namespace) -> AbstractContextManager[TextIO | None]:
    """The file of --record, to be written from its start; None without the option."""
    return trace_file(options.record)


def trace_file(path: str | None) -> AbstractContextManager[TextIO | None]:
    """The file at path, to be written from its start; None without a path."""
    return nullcontext() if path is None else Path(path).open("w", encoding="utf-8")
