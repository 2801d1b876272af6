"""What peek, poke, dump, reset and irq have in common: they open a device, and say what that does to it."""

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
from pyvfio.texts import printable

WIDTHS = (1, 2, 4, 8)
"""How many bytes one access can have."""


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names the device."""
    parser.add_argument("address", metavar="BDF", help=f"{DEVICE_HELP}; bound to VFIO, and not open elsewhere")


def add_region(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a region of the device."""
    parser.add_argument("region", metavar="REGION", help="bar0 to bar5, config, rom, vga, or a number")


def add_width(parser: argparse.ArgumentParser) -> None:
    """Add the option for the bytes of one access."""
    parser.add_argument(
        "--width", type=int, choices=WIDTHS, default=4, help="bytes of one access (default: %(default)s)"
    )


def number(text: str) -> int:
    """The number that an argument is, "16" or "0x10". Raises argparse.ArgumentTypeError."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: write 16 or 0x10") from None


def device_of(options: argparse.Namespace) -> PciDevice:
    """The device that the command line names. Raises InvalidArgument, DeviceNotBound."""
    host: Host = options.host
    return named_device(host.kernel, options.address)


@contextmanager
def open_it(options: argparse.Namespace) -> Iterator[Device]:
    """Open the device that the command line names for the block that follows; say on standard error what that does.

    Raises what Container.open_device() raises.
    """
    host: Host = options.host
    address = device_of(options).address
    with opened(host.kernel, address) as device:
        print(printable(f"note: {what_opening_does(host.kernel, address)}"), file=sys.stderr)
        yield device
