"""pyvfio restore"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from pyvfio.cli.changes import add_safety, change_data, needs_root, show_lines, show_writes, undo_file
from pyvfio.commandline import Command, Failure, Output
from pyvfio.host import (
    Change,
    Host,
    entries_to_restore,
    owned_nodes,
    owners_to_restore,
    perform_restore,
    plan_restore,
    require_not_needed,
    writes_of,
)
from pyvfio.sysfs import full_address, named_address
from pyvfio.texts import printable


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="*", metavar="BDF", help="only these devices (default: all of the undo file)")
    add_safety(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    undo = undo_file(options)
    entries = entries_to_restore(undo, host.rules)
    wanted = [full_address(named_address(kernel, name)) for name in options.address]
    if unknown := set(wanted) - {entry.address for entry in entries}:
        raise Failure(f"{', '.join(sorted(unknown))}: not in {undo.path} and without a rule: nothing to restore")
    entries = [entry for entry in entries if not wanted or entry.address in wanted]
    rules = [rule for entry in entries for rule in host.rules.find(entry.address)]
    changes = plan_restore(kernel, entries)
    if not options.force:
        moving = [change for change in changes if not change.gone and change.before.driver != change.driver]
        require_not_needed(kernel, host.network, [change.before.address for change in moving if change.before.driver])
    failures: dict[str, OSError] = {}
    if options.dry_run:
        show_lines(output, writes_of(removed=rules))
        show_writes(output, changes)
        show_lines(output, _chowns(host, changes))
    else:
        with needs_root("restore"):
            failures = perform_restore(kernel, entries, undo, host.rules)
        for change in changes:
            what = f"restored to {change.driver or 'no driver'}"
            if change.gone:
                what = f"{_gone(change)}, nothing to restore"
            if change.before.address not in failures:
                output.text(f"{change.before.address}: {what}")
        if not changes:
            output.text(f"nothing to restore: {undo.path} has no devices")
    output.data(
        {
            "dry_run": options.dry_run,
            "undo_file": str(undo.path),
            "rules": [str(rule.path) for rule in rules],
            "devices": [change_data(change, change.driver) for change in changes],
            "failures": [str(failure) for failure in failures.values()],
        }
    )
    for address, failure in failures.items():
        where = "" if address in str(failure) else f"{address}: "
        lines = [f"pyvfio: {where}{failure}", *getattr(failure, "__notes__", [])]
        print("\n".join(map(printable, lines)), file=sys.stderr)
    return 1 if failures else 0


def _chowns(host: Host, changes: Sequence[Change]) -> Iterator[str]:
    """The lines of a shell script that give nodes back. They may go with the driver."""
    for change in changes:
        if not change.gone:
            address = change.before.address
            owners = owners_to_restore(host.kernel, address, host.rules)
            for node, (uid, gid) in owned_nodes(host.kernel, address, owners).items():
                yield f"test ! -e {node} || chown {uid}:{gid} {node}"


def _gone(change: Change) -> str:
    return f"another device ({change.replaced_by}) is there now" if change.replaced_by else "gone"


COMMAND = Command(
    "restore",
    "put devices back as they were before bind and unbind",
    _run,
    _configure,
    description="Put the devices of the undo file back to the driver and override they had before the first bind or\n"
    "unbind touched them; also after one of those was killed half-way. The file goes when all is done,\n"
    "and so do the udev rules of bind --owner and --persist.",
    examples=(
        ("pyvfio restore", "everything"),
        ("pyvfio restore 03:00.0", "one device"),
        ("pyvfio restore --undo-file lab.json --dry-run", "what would be written"),
    ),
)
