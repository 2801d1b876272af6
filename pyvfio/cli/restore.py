"""pyvfio restore"""

from __future__ import annotations

import argparse
import sys

from pyvfio.cli.changes import add_safety, change_data, needs_root, show_lines, show_writes, undo_file
from pyvfio.commandline import Command, Failure, Output
from pyvfio.host import Change, Host, perform_restore, plan_restore, require_not_needed, writes_of
from pyvfio.sysfs import full_address, named_address


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="*", metavar="BDF", help="only these devices (default: all of the undo file)")
    add_safety(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    undo = undo_file(options)
    rules = host.rules.find()
    entries = undo.read()
    known = {entry.address for entry in entries}
    # The rules of bind --persist outlive the undo file.
    entries += {rule.before.address: rule.before for rule in rules if rule.before.address not in known}.values()
    wanted = [full_address(named_address(kernel, name)) for name in options.address]
    if unknown := set(wanted) - {entry.address for entry in entries}:
        raise Failure(f"{', '.join(sorted(unknown))}: not in {undo.path} and without a rule: nothing to restore")
    entries = [entry for entry in entries if not wanted or entry.address in wanted]
    rules = [rule for rule in rules if rule.before in entries]
    changes = plan_restore(kernel, entries)
    if not options.force:
        moving = [change for change in changes if not change.gone and change.before.driver != change.driver]
        require_not_needed(kernel, host.network, [change.before.address for change in moving if change.before.driver])
    failures: list[OSError] = []
    if options.dry_run:
        show_lines(output, writes_of(removed=rules))
        show_writes(output, changes)
    else:
        with needs_root("restore"):
            failures = perform_restore(kernel, entries, undo, host.rules)
        for change in changes:
            what = f"restored to {change.driver or 'no driver'}"
            if change.gone:
                what = f"{_gone(change)}, nothing to restore"
            if not any(change.before.address in str(failure) for failure in failures):
                output.text(f"{change.before.address}: {what}")
        if not changes:
            output.text(f"nothing to restore: {undo.path} has no devices")
    output.data(
        {
            "dry_run": options.dry_run,
            "undo_file": str(undo.path),
            "rules": [str(rule.path) for rule in rules],
            "devices": [change_data(change, change.driver) for change in changes],
            "failures": [str(failure) for failure in failures],
        }
    )
    for failure in failures:
        print(f"pyvfio: {failure}", file=sys.stderr)
    return 1 if failures else 0


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
