"""pyvfio bind"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from pyvfio.cli.changes import (
    add_addresses,
    add_safety,
    change_data,
    named_addresses,
    needs_root,
    show_lines,
    show_writes,
    undo_file,
)
from pyvfio.commandline import Command, Failure, Output, Style
from pyvfio.host import (
    Change,
    Host,
    Owner,
    Rule,
    UndoFile,
    bind,
    give_nodes,
    give_nodes_script,
    owner_by_another,
    owners_of,
    perform,
    plan_bind,
    require_not_needed,
    require_usable_groups,
    wait_for_node,
    wait_for_nodes,
    warnings_about,
    writes_of,
)
from pyvfio.kernel import Kernel

_PATIENCE = 5.0
_UNSAFE = "  UNSAFE: no IOMMU is behind it. All of the host's memory is open to it, and the kernel is tainted now."


def _configure(parser: argparse.ArgumentParser) -> None:
    add_addresses(parser)
    parser.add_argument(
        "--driver", default="vfio-pci", metavar="NAME", help="the driver to bind to (default: %(default)s)"
    )
    parser.add_argument(
        "--owner",
        metavar="USER[:GROUP]",
        help="who may open the devices, as long as they are bound and after that until the next boot: by a udev rule",
    )
    parser.add_argument("--persist", action="store_true", help="at every boot, by a udev rule")
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
    owner = Owner.parse(options.owner) if options.owner else None
    rules = _rules(host, options, owner, changes, undo)
    removed = [] if not (owner and options.persist) else [each for a in addresses for each in host.rules.for_boot(a)]
    nodes: dict[str, list[str]] = {}
    if options.dry_run:
        show_lines(output, writes_of(rules, removed))
        show_writes(output, changes)
        show_lines(output, give_nodes_script(kernel, addresses, owner) if owner else [])
    else:
        # Events are opened first, so that no node is missed that appears before anybody waits for it.
        with needs_root("bind"), host.uevents() as events:

            def finish() -> None:
                wait = partial(wait_for_node, kernel, events=events, timeout=_PATIENCE)
                nodes.update((address, wait_for_nodes(kernel, address, wait)) for address in addresses)
                if owner:
                    give_nodes(kernel, addresses, owner)

            step = partial(_bind, kernel, options.driver)
            perform(kernel, changes, undo, step, around=host.rules.changed(rules, removed), finish=finish)
        for change in changes:
            _tell(output, change, options.driver, nodes[change.before.address])
        show_lines(output, [f"  {rule.path}" for rule in rules])
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
            "rules": [str(rule.path) for rule in rules],
            "warnings": warnings,
        }
    )
    return 0


def _rules(
    host: Host, options: argparse.Namespace, owner: Owner | None, changes: Sequence[Change], undo: UndoFile
) -> list[Rule]:
    """The udev rules that --owner and --persist ask for, one for each device."""
    if not owner and not options.persist:
        return []
    first = {entry.address: entry for entry in undo.read()}
    driver = options.driver if options.persist else None
    if owner:
        _require_one_owner(host, owner, [change.before.address for change in changes])
    rules = []
    for change in changes:
        address = change.before.address
        owners = owners_of(host.kernel, address) if owner else None
        rules.append(host.rules.rule(first.get(address, change.before), driver, owner, owners))
    return rules


def _require_one_owner(host: Host, owner: Owner, addresses: Sequence[str]) -> None:
    """Raise Failure if a group's node is somebody's already, for another device of the group."""
    for address, other in owner_by_another(host.kernel, addresses, host.rules).items():
        if other != str(owner):
            raise Failure(
                f"--owner {owner}: the node of the group is {other}'s, by bind --owner for {address}, and has one. "
                f"Give both devices to one user, or take the other one's away: pyvfio restore {address}"
            )


def _bind(kernel: Kernel, driver: str, address: str) -> None:
    bind(kernel, address, driver)


def _tell(output: Output, change: Change, driver: str, nodes: Sequence[str]) -> None:
    """Print what was done to a device, with the first of its nodes."""
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
    "a disk in use, the console's display and keyboard, what a program has open. pyvfio restore puts everything back.",
    examples=(
        ("pyvfio bind 03:00.0", "to vfio-pci"),
        ("pyvfio bind --group 03:00.0", "with every device of its IOMMU group"),
        ("pyvfio bind --dry-run 03:00.0", "what would be written"),
        ("pyvfio bind --persist --owner alice 03:00.0", "at every boot, for this user"),
        ("pyvfio bind --expect 8086:1521 03:00.0", "only if it is that device"),
    ),
)
