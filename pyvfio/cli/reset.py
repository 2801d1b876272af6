"""pyvfio reset"""

from __future__ import annotations

import argparse

from pyvfio.cli.bench import add_device, open_it
from pyvfio.commandline import Command, Output
from pyvfio.device import DeviceFlags
from pyvfio.errors import VfioError


def _configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--bus",
        action="store_true",
        help="the slot or bus with all that is on it, where all of it is this device's group",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be reset; that too opens the device")


def _run(options: argparse.Namespace, output: Output) -> int:
    with open_it(options) as device:
        can_alone = bool(device.info.flags & DeviceFlags.RESET)
        affected = [device.address]
        if options.bus or (options.dry_run and not can_alone):
            try:
                affected = [each.address for each in device.affected_by_hot_reset()]
            except VfioError:
                if options.bus:
                    raise
                affected = []
        if not options.dry_run:
            device.hot_reset() if options.bus else device.reset()
        answers = device.config.vendor_id != 0xFFFF
    output.data(
        {
            "address": device.address,
            "alone": can_alone,
            "bus": options.bus,
            "dry_run": options.dry_run,
            "affected": affected,
            "answers": answers,
        }
    )
    if options.dry_run:
        alone = "can be reset alone" if can_alone else "cannot be reset alone"
        with_bus = f"; with its bus: {', '.join(affected)}" if affected and (options.bus or not can_alone) else ""
        output.text(f"{device.address}: {alone}{with_bus}")
    elif answers:
        output.text(f"{', '.join(affected)}: reset, and {device.address} answers")
    else:
        output.text(f"{', '.join(affected)}: reset, but {device.address} does not answer: config space reads all ones")
    return 0 if answers else 1


COMMAND = Command(
    "reset",
    "reset a device, alone or with its bus",
    _run,
    _configure,
    description="Open a device that is bound to VFIO and reset it, and see whether it answers afterwards. Opening\n"
    "resets it already, if it can be reset alone. Exit status 1 if it cannot be reset, or does not answer.",
    examples=(
        ("pyvfio reset 03:00.0", "alone"),
        ("pyvfio reset --bus 03:00.0", "with all that is on its bus or slot"),
        ("pyvfio reset --dry-run 03:00.0", "what that would be"),
    ),
)
