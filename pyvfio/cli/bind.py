"""pyvfio bind"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from pyvfio.cli.changes import add_addresses, add_safety, change_data, named_addresses, show_writes, undo_file
from pyvfio.commandline import Command, Output, Style
from pyvfio.host import (
    Change,
    Host,
    bind,
    perform,
    plan_bind,
    require_not_needed,
    require_usable_groups,
    wait_for_node,
    wait_for_nodes,
    warnings_about,
)
from pyvfio.kernel import Kernel

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
        if "vfio" in options.driver:
            require_usable_groups(kernel, addresses)
    warnings = list(warnings_about(kernel, addresses)) if "vfio" in options.driver else []
    nodes: dict[str, list[str]] = {}
    if options.dry_run:
        show_writes(output, changes)
    else:
        # Opened first: a node that appears in between is not missed.
        with host.uevents() as events:
            perform(kernel, changes, undo, partial(_bind, kernel, options.driver))
            wait = partial(wait_for_node, kernel, events=events, timeout=_PATIENCE)
            nodes = {address: wait_for_nodes(kernel, address, wait) for address in addresses}
        for change in changes:
            _tell(output, change, options.driver, nodes[change.before.address])
    for warning in warnings:
        output.text(output.paint(f"# {warning}" if options.dry_run else f"  {warning}", Style.YELLOW))
    output.data(
        {
            "dry_run": options.dry_run,
            "undo_file": str(undo.path),
            "devices": [
                change_data(each, options.driver, next(iter(nodes.get(each.before.address, [])), None))
                for each in changes
            ],
            "warnings": warnings,
        }
    )
    return 0


def _bind(kernel: Kernel, driver: str, address: str) -> None:
    bind(kernel, address, driver)


def _tell(output: Output, change: Change, driver: str, nodes: Sequence[str]) -> None:
    before = change.before.driver or "no driver"
    done = f"{before} -> {driver}" if change.writes else f"{before} already"
    output.text("  ".join([f"{change.before.address}: {done}", *nodes[:1]]))
    if any("noiommu" in node for node in nodes):
        output.text(output.paint(_UNSAFE, Style.YELLOW))


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
