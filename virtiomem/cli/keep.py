"""virtiomem keep"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.commandline import Command, Failure, Output
from virtiomem.cli.telling import telling
from virtiomem.control import places
from virtiomem.persistence import Keeper


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="COMMAND", help="virtiomem serve, and its options")


def _run(options: argparse.Namespace, output: Output) -> int:
    command = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not command:
        raise Failure("what is to be run? virtiomem keep -- virtiomem serve ...")
    places.make_directory()
    with (
        telling(output) as told,
        Keeper(command, places.directory(), say=lambda line: _say(told, line)) as keeper,
        _obeying(keeper),
    ):
        return keeper.run()


def _say(output: Output, line: str) -> None:
    output.record({"event": "ended", "what": line})
    output.text(line)


@contextmanager
def _obeying(keeper: Keeper) -> Iterator[None]:
    """Let SIGTERM and SIGINT end what runs, and SIGHUP replace it, for the length of a with block."""
    handlers = {signal.SIGTERM: keeper.end, signal.SIGINT: keeper.end, signal.SIGHUP: keeper.replace}
    before = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COMMAND = Command(
    "keep",
    "run a server, and keep its guests and devices while it is replaced",
    _run,
    _configure,
    description="Run COMMAND, which is virtiomem serve with its options, and start it again whenever it is killed or\n"
    "fails. The connections of its guests, their rings and memory, and its containers, groups and devices stay\n"
    "open here meanwhile, and the next server goes on where the last one stood: guests and devices notice nothing.\n"
    "SIGHUP replaces the server, by a newer version for example; SIGTERM and Ctrl-C end it, and let all go.\n"
    "systemd does the same: see virtiomem@.service.",
    examples=(
        ("virtiomem keep -- virtiomem serve --vhost-user /run/vm/mem.sock --region 2G --device 03:00.0", "a server"),
    ),
    json="a line for each end of the server",
)
