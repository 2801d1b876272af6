"""Arguments that name devices."""

from __future__ import annotations

import argparse

from pyvfio.host.bind import group_addresses
from pyvfio.kernel import Kernel


def add_addresses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="+", metavar="BDF", help="PCI address, 0000:03:00.0 or 03:00.0")
    parser.add_argument("--group", action="store_true", help="the whole IOMMU group of each device, without bridges")


def named_addresses(kernel: Kernel, options: argparse.Namespace) -> list[str]:
    addresses: list[str] = options.address
    if options.group:
        addresses = [member for address in addresses for member in group_addresses(kernel, address)]
    return list(dict.fromkeys(addresses))
