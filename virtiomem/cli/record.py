"""virtiomem record"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Failure, Output, Program
from virtiomem.cli.demo import COMMAND as DEMO
from virtiomem.cli.run import COMMAND as RUN
from virtiomem.cli.serve import COMMAND as SERVE

RECORDABLE = (DEMO, RUN, SERVE)
"""The commands that have --record."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="where the trace goes")
    parser.add_argument(
        "command_line",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help=f"what to record: {', '.join(command.name for command in RECORDABLE)}, with its arguments",
    )


def _run(options: argparse.Namespace, _: Output) -> int:
    words = options.command_line[options.command_line[:1] == ["--"] :]
    if not words:
        raise Failure("nothing to record: virtiomem record FILE -- demo")
    name, *rest = words
    return Program("virtiomem", "What can be recorded.", RECORDABLE).main([name, "--record", options.file, *rest])


COMMAND = Command(
    "record",
    "run another command and record what its guest asks, as a trace to replay",
    _run,
    _configure,
    description="Run another command and write what its guest asks to FILE, one JSON object a line. A replay of the\n"
    "trace gives the same answers. The same as that command's own --record FILE.",
    examples=(
        ("virtiomem record trace.jsonl -- demo --plug 64M", "the guest's requests of the demonstration"),
        ("virtiomem record trace.jsonl -- run --region 1G", "those of a managed device, until it is stopped"),
    ),
    json=None,
)
