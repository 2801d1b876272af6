"""virtiomem remove"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Output
from virtiomem.cli.manager import add_manager, connect


def _configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--device", metavar="NAME", help="serve this device no more")
    what.add_argument("--space", metavar="NAME", help="map nothing into this address space any more, and close it")
    parser.add_argument(
        "--yes", action="store_true", help="even if the device's guest runs, and can give back nothing then"
    )
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        if options.space is not None:
            client.remove_space(options.space)
        else:
            client.remove_device(options.device, yes=options.yes)
    name = options.device if options.space is None else options.space
    output.data({"removed": name})
    output.text(f"{name}: removed")
    return 0


COMMAND = Command(
    "remove",
    "remove a device, or an address space, from a running server",
    _run,
    _configure,
    description="Have a running virtiomem serve serve a device no more, as if the server ended for it: all of it is\n"
    "unmapped, what its guest has plugged stays the guest's, and what is kept in --state waits for the device to be\n"
    "added again. Or have it unmap everything from an address space, and close what it opened for it.",
    examples=(
        ("virtiomem remove --space 0000:03:00.0", "before the device is given to somebody else"),
        ("virtiomem remove --device vm0-1", "whose guest has ended"),
    ),
)
