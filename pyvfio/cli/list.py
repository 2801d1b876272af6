"""pyvfio list"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from pyvfio.cli.entries import entry_data
from pyvfio.commandline import Command, Output, Style
from pyvfio.host import Entry, Host, InterfaceUse, inventory
from pyvfio.sysfs import pci_device

_COLUMNS = ("ADDRESS", "CLASS", "NAME", "DRIVER", "GROUP", "VIABLE", "NUMA", "CDEV", "NET")
_MORE = ("ID", "OVERRIDE", "DISKS")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="*", metavar="BDF", help="only these devices (default: all)")
    parser.add_argument("-v", "--verbose", action="store_true", help=f"more columns at the end: {', '.join(_MORE)}")


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    wanted = [pci_device(kernel, address) for address in options.address] or None
    entries = inventory(kernel, host.network, wanted)
    output.data([entry_data(entry) for entry in entries])
    rows = [_COLUMNS + (_MORE if options.verbose else ())]
    rows += [_row(entry, output) + (_more(entry) if options.verbose else ()) for entry in entries]
    output.table(rows)
    return 0


def _row(entry: Entry, output: Output) -> tuple[str, ...]:
    device = entry.device
    return (
        device.address,
        entry.kind,
        entry.name,
        output.paint(device.driver or "-", Style.GREEN if device.has_vfio_driver else Style.PLAIN),
        _or_dash(device.group),
        output.paint(entry.viability, Style.PLAIN if entry.viable else Style.YELLOW),
        _or_dash(device.numa_node),
        (entry.device_node or "-").rpartition("/")[2],
        _joined(map(_interface, entry.interfaces)),
    )


def _more(entry: Entry) -> tuple[str, ...]:
    device = entry.device
    return f"{device.vendor_id:04x}:{device.device_id:04x}", entry.override or "-", _joined(entry.disks)


def _interface(use: InterfaceUse) -> str:
    return f"{use.name} (default route)" if "default" in use.routes else use.name


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words) or "-"


COMMAND = Command(
    "list",
    "PCI devices with driver, IOMMU group and who spoils it",
    _run,
    _configure,
    description="One row for each PCI function. VIABLE says whether VFIO can use its group, and who is in the way.\n"
    "Columns never change their order; -v only appends. Names come from pci.ids where the host has it.",
    examples=(
        ("pyvfio list", "every function"),
        ("pyvfio list -v 03:00.0", "one, with more columns"),
        ("pyvfio list --json | jq -r '.[] | select(.viable) | .address'", "those VFIO can use"),
    ),
)
