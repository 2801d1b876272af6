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
    if options.record is None:
        return nullcontext()
    return Path(options.record).open("w", encoding="utf-8")
