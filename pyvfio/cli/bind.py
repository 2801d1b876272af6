"""pyvfio bind"""

from __future__ import annotations

import argparse
from functools import partial

from pyvfio.cli.changes import add_addresses, add_safety, change_data, named_addresses, show_writes, undo_file
from pyvfio.commandline import Command, Output, Style
from pyvfio.host import (
    Change,
    Host,
    Uevents,
    bind,
    perform,
    plan_bind,
    require_not_needed,
    wait_for_node,
)
from pyvfio.kernel import Kernel
from pyvfio.sysfs import group_node, pci_device

_PATIENCE = 5.0
_UNSAFE = "  UNSAFE: no IOMMU is behind it. All of the host's memory is open to it, and the kernel is tainted now."


def _configure(parser: argparse.ArgumentParser) -> None:
    add_addresses(parser)
    parser.add_argument(
        "--driver", default="vfio-pci", metavar="NAME", help="the driver to bind to (default: %(default)s)"
    )
    add_safety(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    undo = undo_file(options)
    addresses = named_addresses(kernel, options)
    changes = plan_bind(kernel, addresses, options.driver)
    if not options.force:
        require_not_needed(kernel, host.network, [change.before.address for change in changes if change.writes])
    if options.dry_run:
        show_writes(output, changes)
        nodes: dict[str, str | None] = {}
    else:
        # Opened first: a node that appears in between is not missed.
        with host.uevents() as events:
            perform(kernel, changes, undo, partial(_bind, kernel, options.driver))
            nodes = {change.before.address: _node(kernel, change, events) for change in changes}
    for change in changes:
        node = nodes.get(change.before.address)
        if not options.dry_run:
            before = change.before.driver or "no driver"
            done = f"{before} -> {options.driver}" if change.writes else f"{before} already"
            output.text(f"{change.before.address}: {done}" + (f"  {node}" if node else ""))
            if node and "noiommu" in node:
                output.text(output.paint(_UNSAFE, Style.YELLOW))
    output.data(
        {
            "dry_run": options.dry_run,
            "undo_file": str(undo.path),
            "devices": [change_data(each, options.driver, nodes.get(each.before.address)) for each in changes],
        }
    )
    return 0


def _bind(kernel: Kernel, driver: str, address: str) -> None:
    bind(kernel, address, driver)


def _node(kernel: Kernel, change: Change, events: Uevents) -> str | None:
    """The group's node, once it is there; None where the driver makes none."""
    device = pci_device(kernel, change.before.address)
    if not device.has_vfio_driver or device.group is None:
        return None
    path = group_node(kernel, device.group)
    wait_for_node(kernel, path, events, _PATIENCE)
    return path


COMMAND = Command(
    "bind",
    "give devices to vfio-pci (or another driver)",
    _run,
    _configure,
    description="Give devices to vfio-pci, or to another driver, through driver_override, and wait for their nodes.\n"
    "Verified afterwards; the override is put back as it was. If one device fails, all are given back.\n"
    "What the host itself needs is refused by name: an interface with a route, an address or a link,\n"
    "a disk with a mounted file system or swap. pyvfio restore puts everything back.",
    examples=(
        ("pyvfio bind 03:00.0", "to vfio-pci"),
        ("pyvfio bind --group 03:00.0", "with every device of its IOMMU group"),
        ("pyvfio bind --dry-run 03:00.0", "what would be written"),
        ("pyvfio bind --expect 8086:1521 03:00.0", "only if it is that device"),
    ),
)
