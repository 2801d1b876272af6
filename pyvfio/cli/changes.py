"""What bind, unbind and restore have in common: their options, and how they print their changes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyvfio.commandline import Failure, Output
from pyvfio.host import DEFAULT, Change, UndoFile, group_addresses, require_expected
from pyvfio.kernel import Kernel
from pyvfio.sysfs import named_device

DEVICE_HELP = "PCI address, 0000:03:00.0 or 03:00.0, or network interface, eth1"


def add_addresses(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name devices."""
    parser.add_argument("address", nargs="+", metavar="BDF", help=DEVICE_HELP)
    parser.add_argument("--group", action="store_true", help="the whole IOMMU group of each device, without bridges")
    parser.add_argument(
        "--expect", metavar="VENDOR:DEVICE", help="refuse a device that is another one, 8086:1521 for example"
    )


def add_safety(parser: argparse.ArgumentParser) -> None:
    """Add the options that keep a change from doing harm."""
    parser.add_argument("--dry-run", action="store_true", help="print every write, make none")
    parser.add_argument(
        "--undo-file",
        type=Path,
        metavar="FILE",
        help=f"where the former state is kept for restore (default: {DEFAULT})",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="even if the host needs it, or a program has it open",
    )


def undo_file(options: argparse.Namespace) -> UndoFile:
    """The undo file that the command line names, or else the host's."""
    return UndoFile(options.undo_file or options.host.undo_file)


def named_addresses(kernel: Kernel, options: argparse.Namespace) -> list[str]:
    """The full addresses of the devices that the options name, each once.

    Raises DeviceNotBound for a device that does not exist, InvalidArgument for one that is not as expected.
    """
    addresses = [named_device(kernel, name).address for name in options.address]
    if options.group:
        addresses = [member for address in addresses for member in group_addresses(kernel, address)]
    if options.expect:
        require_expected(kernel, addresses, options.expect)
    return list(dict.fromkeys(addresses))


def show_writes(output: Output, changes: Sequence[Change]) -> None:
    """Print the writes of changes as a shell script."""
    for change in changes:
        for write in change.writes:
            output.text(str(write))


def show_lines(output: Output, lines: Iterable[str]) -> None:
    """Print lines for people."""
    for line in lines:
        output.text(line)


@contextmanager
def needs_root(command: str) -> Iterator[None]:
    """Raise Failure, which says that a command needs root, if the block that follows raises PermissionError."""
    try:
        yield
    except PermissionError as error:
        raise Failure(f"{command} changes the host: run it as root (no permission for {error.filename})") from error


def change_data(change: Change, driver: str | None, node: str | None = None) -> dict[str, object]:
    """A change as data. driver: the driver that the device has afterwards. node: the device's node; None for none."""
    return {
        "address": change.before.address,
        "driver_before": change.before.driver,
        "driver": driver,
        "node": node,
        "gone": change.gone,
        "writes": [{"path": write.path, "text": write.text.strip()} for write in change.writes],
    }
