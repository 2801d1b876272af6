"""virtiomem reset"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Output
from pyvfio.units import format_size
from virtiomem.cli.manager import add_manager, connect


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="NAME", help="the device whose guest has ended")
    parser.add_argument("--yes", action="store_true", help="what is in its memory is lost, and that is meant")
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        size = client.reset_device(options.device, yes=options.yes)
    output.data({"device": options.device, "bytes": size})
    output.text(f"{options.device}: {format_size(size)} were plugged, and all memory is given back")
    return 0


COMMAND = Command(
    "reset",
    "give back the memory of a guest that has ended for good",
    _run,
    _configure,
    description="A server keeps what a guest has plugged when its front end goes, for the guest may run on. Where it\n"
    "has ended for good, unplug everything, discard what is in the memory, and let the memory go, so that it is\n"
    "free again. The device is served on, for the next guest. Refused while a front end is connected.",
    examples=(("virtiomem reset vm0 --yes", "its memory is free again"),),
)
