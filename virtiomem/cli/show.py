"""virtiomem show"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pyvfio.commandline import Command, Output
from virtiomem.cli.manager import add_manager, connect, only_device
from virtiomem.cli.status_text import status_lines
from virtiomem.control import ControlClient
from virtiomem.draw import block_map_svg

_PATIENCE = 60.0
_FRAME = 0.1
"""Seconds for which a picture stays at least: blocks change faster than anybody can look."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="only this one of several")
    parser.add_argument("--watch", action="store_true", help="draw anew with every change, until Ctrl-C")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture of the block map there")
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        if options.watch:
            return _watch(client, options, output)
        revision, devices = client.show()
    if options.device is not None:
        devices = [only_device(devices, options.device)]
    if options.svg is not None:
        options.svg.write_text(block_map_svg(only_device(devices, options.device)), encoding="utf-8")
    output.data({"revision": revision, "devices": [status.data() for status in devices]})
    for status in devices:
        for line in status_lines(output, status):
            output.text(line)
    return 0


def _watch(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    revision = -1
    while True:
        later, devices = client.show(after=revision, timeout=_PATIENCE)
        if later == revision:
            continue
        revision = later
        if options.device is not None:
            devices = [only_device(devices, options.device)]
        output.record({"revision": revision, "devices": [status.data() for status in devices]})
        if output.terminal:
            output.redraw(line for each in devices for line in status_lines(output, each))
        else:
            for status in devices:
                for line in status_lines(output, status):
                    output.text(line)
        time.sleep(_FRAME)


COMMAND = Command(
    "show",
    "sizes, ranges and the block map of a running manager",
    _run,
    _configure,
    description="Total, block, usable, plugged and requested size together, the ranges as lsmem shows them, and the\n"
    "block map: a cell for each block, or for several where there are many.",
    examples=(
        ("virtiomem show", "once"),
        ("virtiomem show --watch", "live"),
        ("virtiomem show --json | jq '.devices[0].plugged_size'", "as data"),
        ("virtiomem show --svg map.svg", "a picture for a report"),
    ),
)
