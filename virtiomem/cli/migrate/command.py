"""virtiomem migrate"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from pyvfio.commandline import Command, Failure, Output
from virtiomem.cli.manager import add_manager, connect
from virtiomem.cli.migrate import actions
from virtiomem.control import ControlClient

_ACTIONS: Mapping[str, Callable[[ControlClient, argparse.Namespace, Output], int]] = {
    "begin": actions.begin,
    "dirty": actions.dirty,
    "save": actions.save,
    "load": actions.load,
    "cancel": actions.cancel,
}
_WITH_FILE = ("save", "load")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="what to do, of those above")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="of save and load: where the state is")
    parser.add_argument("--device", metavar="NAME", help="which, of several devices")
    parser.add_argument(
        "--keep",
        type=_seconds,
        metavar="SECONDS",
        help="of begin: return, and let the migration go on until nobody has asked anything of it for so long",
    )
    parser.add_argument(
        "--bitmap", type=Path, metavar="FILE", help="of dirty: write a bit for each page of the region there"
    )
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    action = options.action
    if (options.file is not None) != (action in _WITH_FILE):
        raise Failure(f"migrate {action} takes {'a' if action in _WITH_FILE else 'no'} file for the state")
    for option, of in (("keep", "begin"), ("bitmap", "dirty")):
        if getattr(options, option) is not None and action != of:
            raise Failure(f"--{option} is an option of migrate {of}, not of {action}")
    with connect(options) as client:
        return _ACTIONS[action](client, options, output)


def _seconds(text: str) -> float:
    """An argparse type: seconds, more than none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


COMMAND = Command(
    "migrate",
    "what a device of a running manager needs to move to another host",
    _run,
    _configure,
    description="begin    no block changes from now on, and what devices write is logged; stays until it has ended\n"
    "dirty    the pages that devices may have written since they were last read\n"
    "save     the device's state, without the content of memory, to a file\n"
    "load     at the destination, before its guest runs: plug what was plugged\n"
    "cancel   end the migration: blocks may change again\n\n"
    "What the guest itself writes is the virtual machine monitor's to know. A migration ends with the command\n"
    "that began it, or with --keep when nobody asks for it any more, so that no guest is refused for ever.",
    examples=(
        ("virtiomem migrate begin --keep 600", "for ten minutes after the last word, whoever says it"),
        ("virtiomem migrate dirty --bitmap pages.bin", "a bit for each page; those are clean from then on"),
        ("virtiomem migrate save vm0.state", "when the guest has stopped"),
        ("virtiomem migrate load vm0.state --name vm1", "into a manager with the same region"),
    ),
    json="a line for what was done, and before it one for each run of dirty pages",
)
