"""pyvfio poke"""

from __future__ import annotations

import argparse

from pyvfio.cli.bench import add_device, add_region, add_width, device_of, number, open_it
from pyvfio.commandline import Command, Failure, Output
from pyvfio.errors import VfioError
from pyvfio.host import Host, require_expected
from pyvfio.host.inspect import region_of


def _configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    add_region(parser)
    parser.add_argument(
        "writes", nargs="+", type=_write, metavar="OFFSET=VALUE", help="in order; bytes into the region: 0x10=1"
    )
    add_width(parser)
    parser.add_argument(
        "--expect", metavar="VENDOR:DEVICE", help="what is to be written to, 8086:1521; nothing is written without"
    )


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    target = device_of(options)
    if not options.expect:
        raise Failure(
            f"nothing was written: say what {target.address} is to be with --expect VENDOR:DEVICE, "
            "so that no other device is written to by mistake"
        )
    require_expected(host.kernel, [target.address], options.expect)
    width: int = options.width
    done = []
    with open_it(options) as device:
        region = region_of(device, options.region)
        # All of them first: what is written before one that cannot be would stay.
        for offset, value in options.writes:
            try:
                region.check_write(offset, width, value)
            except VfioError as error:
                raise Failure(f"nothing was written: {error}") from error
        for offset, value in options.writes:
            region.write_register(offset, width, value)
            done.append({"offset": offset, "value": value, "reads": region.read_register(offset, width)})
    digits = 2 * width + 2
    for each in done:
        reads = f"reads {each['reads']:#0{digits}x}"
        output.text(f"{options.region}+{each['offset']:#x}  wrote {each['value']:#0{digits}x}  {reads}")
    output.data({"address": target.address, "region": options.region, "width": width, "writes": done})
    return 0


def _write(text: str) -> tuple[int, int]:
    """The offset and the value of "OFFSET=VALUE". Raises argparse.ArgumentTypeError."""
    offset, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is no write: OFFSET=VALUE, 0x10=1")
    return number(offset), number(value)


COMMAND = Command(
    "poke",
    "write registers of a device, and read them back",
    _run,
    _configure,
    description="Open a device that is bound to VFIO, write registers, each with one access of the width asked for,\n"
    "and read each back. Opening resets the device, if it can be reset alone, and closing does again: what is written\n"
    "does not outlast the command, so what belongs together goes into one. It writes only to what --expect says it is.",
    examples=(
        ("pyvfio poke --expect 1234:11e8 03:00.0 bar0 0x4=0xcafe", "one register"),
        ("pyvfio poke --expect 1234:11e8 03:00.0 bar0 0x20=0x80 0x8=5 --width 4", "two, in order"),
    ),
)
