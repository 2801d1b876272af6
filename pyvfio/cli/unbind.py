"""pyvfio unbind"""

from __future__ import annotations

import argparse
from functools import partial

from pyvfio.cli.changes import (
    add_addresses,
    add_safety,
    change_data,
    named_addresses,
    needs_root,
    show_writes,
    undo_file,
)
from pyvfio.commandline import Command, Output
from pyvfio.host import Host, perform, plan_unbind, require_not_needed, unbind
from pyvfio.sysfs import pci_device


def _configure(parser: argparse.ArgumentParser) -> None:
    add_addresses(parser)
    add_safety(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    undo = undo_file(options)
    addresses = named_addresses(kernel, options)
    changes = plan_unbind(kernel, addresses)
    if not options.force:
        require_not_needed(kernel, host.network, [change.before.address for change in changes if change.before.driver])
    if options.dry_run:
        show_writes(output, changes)
    else:
        with needs_root("unbind"):
            perform(kernel, changes, undo, partial(unbind, kernel))
    devices = []
    for change in changes:
        driver = None if options.dry_run else pci_device(kernel, change.before.address).driver
        devices.append(change_data(change, driver))
        if not options.dry_run:
            output.text(f"{change.before.address}: {change.before.driver or 'no driver'} -> {driver or 'no driver'}")
    output.data({"dry_run": options.dry_run, "undo_file": str(undo.path), "devices": devices})
    return 0


COMMAND = Command(
    "unbind",
    "take devices from their driver and let the host choose another",
    _run,
    _configure,
    description="Take devices from their driver, clear their driver_override, and let the host choose a driver: its\n"
    "own where it has one. A device that a program has open is refused, since the kernel would wait for it.",
    examples=(
        ("pyvfio unbind 03:00.0", "its own driver takes it again"),
        ("pyvfio unbind --dry-run --group 03:00.0", "what would be written for the whole group"),
    ),
)
