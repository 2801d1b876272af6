"""pyvfio bind"""

from __future__ import annotations

import argparse

from pyvfio.cli.addresses import add_addresses, named_addresses
from pyvfio.commandline import Command, Output
from pyvfio.host.bind import bind
from pyvfio.kernel import LinuxKernel


def _configure(parser: argparse.ArgumentParser) -> None:
    add_addresses(parser)
    parser.add_argument("--driver", default="vfio-pci", help="the driver to bind to (default: %(default)s)")


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = LinuxKernel()
    for address in named_addresses(kernel, options):
        before = bind(kernel, address, options.driver)
        output.text(f"{before.address}: {before.driver or 'no driver'} -> {options.driver}")
    return 0


COMMAND = Command(
    "bind",
    "give devices to vfio-pci (or another driver)",
    _run,
    _configure,
    examples=(
        ("pyvfio bind 03:00.0", "to vfio-pci"),
        ("pyvfio bind --group 03:00.0", "with every device of its IOMMU group"),
    ),
)
