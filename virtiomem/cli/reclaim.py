"""virtiomem reclaim"""

from __future__ import annotations

import argparse
from typing import Any

from pyvfio.commandline import Command, Output
from pyvfio.units import format_size
from virtiomem.cli.manager import add_manager, connect


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="of this device alone (default: of all)")
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    arguments = {} if options.device is None else {"device": options.device}
    with connect(options) as client:
        result: dict[str, Any] = client.request("reclaim", **arguments)
    output.data(result)
    for name, size in result["bytes"].items():
        output.text(f"{name}: {format_size(size)} of unplugged blocks given back")
    return 0


COMMAND = Command(
    "reclaim",
    "give back what a guest has touched of unplugged blocks",
    _run,
    _configure,
    description="Look for pages in unplugged blocks of a running manager, and give them back to the host, as a server\n"
    "does by itself from time to time (serve --reclaim). A guest should not touch them: it takes memory that it was\n"
    "not given.",
    examples=(("virtiomem reclaim", "of every device"), ("virtiomem reclaim --device vm0-1", "of one")),
)
