"""virtiomem resize"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Failure, Output, size
from pyvfio.units import format_size
from virtiomem.cli.manager import add_manager, connect, only_device
from virtiomem.cli.progress import Progress


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("size", type=size, metavar="SIZE", help="how much the guest is to have plugged")
    parser.add_argument("--device", metavar="NAME", help="which, of several devices")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the guest has done it")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait no longer (default: for ever)")
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        before = only_device(client.show()[1], options.device)
        progress = Progress(output, before)
        status = client.resize(options.size, before.name)
        if not options.no_wait:
            status = progress.follow(client, before.name, options.timeout)
    reached = status.plugged_size == status.requested_size
    output.data(
        {
            "name": status.name,
            "requested_size": status.requested_size,
            "plugged_size": status.plugged_size,
            "reached": reached,
            "seconds": progress.seconds,
            "waiting_for": status.waiting_for,
        }
    )
    if reached:
        output.text(f"{status.name}: {format_size(status.plugged_size)} plugged, in {progress.seconds:.1f} s")
    elif options.no_wait:
        output.text(f"{status.name}: asked for {format_size(status.requested_size)}, "
                    f"{format_size(status.plugged_size)} plugged so far")  # fmt: skip
    elif not output.json:
        raise Failure(f"{status.name} is not there yet: {progress.line(status)} ({status.guest})")
    return 0 if reached or options.no_wait else 1


COMMAND = Command(
    "resize",
    "ask for another size, and wait until the guest has plugged or unplugged",
    _run,
    _configure,
    description="Ask a running manager for another size. Waits, with progress on a terminal, until that much is\n"
    "plugged. Exit status 0 then, 1 if a timeout passes before; the request stands nevertheless.",
    examples=(
        ("virtiomem resize 512M", "and wait"),
        ("virtiomem resize 0 --timeout 30", "give everything back, or fail after half a minute"),
        ("virtiomem resize 2G --no-wait", "just ask"),
    ),
)
