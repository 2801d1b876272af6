"""What peek, poke, dump, reset and irq have in common: a device that they open, and saying so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.cli.changes import DEVICE_HELP
from pyvfio.device import Device
from pyvfio.host import Host
from pyvfio.host.inspect import opened, what_opening_does
from pyvfio.sysfs import PciDevice, named_device

WIDTHS = (1, 2, 4, 8)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="BDF", help=f"{DEVICE_HELP}; bound to VFIO, and not open elsewhere")


def add_region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("region", metavar="REGION", help="bar0 to bar5, config, rom, vga, or a number")


def add_width(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--width", type=int, choices=WIDTHS, default=4, help="bytes of one access (default: %(default)s)"
    )


def number(text: str) -> int:
    """An argument type: 16 or 0x10."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: write 16 or 0x10") from None


def device_of(options: argparse.Namespace) -> PciDevice:
    """The one that the command line names."""
    host: Host = options.host
    return named_device(host.kernel, options.address)


@contextmanager
def open_it(options: argparse.Namespace) -> Iterator[Device]:
    """Opens the device, having said on standard error what that does to it."""
    host: Host = options.host
    address = device_of(options).address
    with opened(host.kernel, address) as device:
        print(f"note: {what_opening_does(host.kernel, address)}", file=sys.stderr)
        yield device
