"""pyvfio peek"""

from __future__ import annotations

import argparse

from pyvfio.cli.bench import add_device, add_region, add_width, number, open_it
from pyvfio.commandline import Command, Output
from pyvfio.host.inspect import region_of


def _configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    add_region(parser)
    parser.add_argument("offset", nargs="+", type=number, metavar="OFFSET", help="bytes into the region: 0x10")
    add_width(parser)
    parser.add_argument("--count", type=int, default=1, metavar="N", help="registers from each offset on (default: 1)")


def _run(options: argparse.Namespace, output: Output) -> int:
    width: int = options.width
    offsets = [offset + step * width for offset in options.offset for step in range(options.count)]
    with open_it(options) as device:
        region = region_of(device, options.region)
        values = [(offset, region.read_register(offset, width)) for offset in offsets]
    for offset, value in values:
        output.text(f"{options.region}+{offset:#x}  {value:#0{2 * width + 2}x}")
    output.data(
        {
            "address": device.address,
            "region": options.region,
            "width": width,
            "values": [{"offset": offset, "value": value, "hex": f"{value:#x}"} for offset, value in values],
        }
    )
    return 0


COMMAND = Command(
    "peek",
    "read registers of a device",
    _run,
    _configure,
    description="Open a device that is bound to VFIO and read registers, each with one access of the width asked for.\n"
    "Opening resets the device, if it can be reset alone: these are its registers after a reset. Reading some\n"
    "registers changes them.",
    examples=(
        ("pyvfio peek 03:00.0 bar0 0x8", "32 bits"),
        ("pyvfio peek 03:00.0 bar0 0 0x14 0x1c --width 8", "three of 64 bits"),
        ("pyvfio peek 03:00.0 config 0 --width 2 --count 4", "the first eight bytes of config space"),
    ),
)
