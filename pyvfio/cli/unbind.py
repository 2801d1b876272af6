"""pyvfio unbind"""

from __future__ import annotations

import argparse

from pyvfio.cli.addresses import add_addresses, named_addresses
from pyvfio.commandline import Command, Output
from pyvfio.host.bind import unbind
from pyvfio.kernel import LinuxKernel


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = LinuxKernel()
    for address in named_addresses(kernel, options):
        output.text(f"{address}: {unbind(kernel, address) or 'no driver'}")
    return 0


COMMAND = Command(
    "unbind",
    "take devices from their VFIO driver and let the host's have them",
    _run,
    add_addresses,
    examples=(("pyvfio unbind 03:00.0", "its own driver takes it again"),),
)
