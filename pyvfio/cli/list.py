"""pyvfio list"""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Iterable, Mapping, Sequence

from pyvfio.cli.entries import entry_data
from pyvfio.commandline import Command, Failure, Output, Style
from pyvfio.errors import InvalidArgument
from pyvfio.host import Entry, Host, InterfaceUse, Selection, inventory, parse_ids
from pyvfio.kernel import Kernel
from pyvfio.sysfs import is_address, named_device, pci_device, pci_devices

_COLUMNS = ("ADDRESS", "CLASS", "NAME", "DRIVER", "GROUP", "VIABLE", "NUMA", "CDEV", "NET")
_MORE = ("ID", "OVERRIDE", "DISKS")
_Cells = Mapping[str, Callable[[Entry, Output], str]]
# The columns that may be cut to fit the line, and how many characters each keeps; the first is cut first.
_CUT = {"NAME": 14, "DRIVER": 10, "NET": 12, "VIABLE": 18, "CLASS": 8, "CDEV": 5}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="BDF|TEXT",
        help="only devices at these addresses or with these interfaces, or with such a text in what is shown of them",
    )
    parser.add_argument(
        "--class",
        dest="kinds",
        action="append",
        default=[],
        metavar="CLASS",
        help="only of this kind: ethernet, network, nvme, or the first digits of the class code: 0200; may be repeated",
    )
    parser.add_argument(
        "--driver",
        dest="drivers",
        action="append",
        default=[],
        metavar="NAME",
        help="only with this driver, or a pattern; none: without one; may be repeated",
    )
    parser.add_argument(
        "--id",
        dest="ids",
        action="append",
        default=[],
        type=_ids,
        metavar="VENDOR:DEVICE",
        help="only with these ids: 8086:1521, 8086: or :1521; may be repeated",
    )
    parser.add_argument(
        "-o",
        "--columns",
        type=_columns,
        metavar="COLUMN,...",
        help=f"only these, in this order; after a + more of them: {', '.join(_CELLS).lower()}",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=f"more columns at the end: {', '.join(_MORE)}")
    parser.add_argument("-w", "--wide", action="store_true", help="nothing is cut to fit the line")


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    selection = _selection(host.kernel, options)
    # Only the devices that are named are read.
    named = [pci_device(host.kernel, address) for address in selection.addresses]
    entries = inventory(host.kernel, host.network, named or pci_devices(host.kernel))
    entries = [entry for entry in entries if selection.takes(entry)]
    output.data([entry_data(entry) for entry in entries])
    if not entries and selection != Selection():
        raise Failure("no PCI function is like that; pyvfio list shows all")
    columns = options.columns or _COLUMNS + (_MORE if options.verbose else ())
    rows = _rows(entries, columns, _CELLS, output)
    if not (options.wide or options.verbose or options.columns) and output.table_width(rows) > output.width:
        brief = _rows(entries, columns, {**_CELLS, "VIABLE": _viable_in_brief}, output)
        output.table(brief, cut={columns.index(name): least for name, least in _CUT.items()})
    else:
        output.table(rows)
    return 0


def _rows(entries: Sequence[Entry], columns: Sequence[str], cells: _Cells, output: Output) -> list[Sequence[str]]:
    return [columns, *([cells[column](entry, output) for column in columns] for entry in entries)]


def _selection(kernel: Kernel, options: argparse.Namespace) -> Selection:
    """What the options select. A word that is an address or an interface names a device, any other is looked for."""
    addresses, texts = [], []
    for word in options.words:
        try:
            addresses.append(named_device(kernel, word).address)
        except InvalidArgument as error:
            if error.errno != errno.EINVAL or is_address(word):
                raise
            texts.append(word)
    return Selection(addresses, options.kinds, options.drivers, options.ids, texts)


def _ids(text: str) -> tuple[int | None, int | None]:
    try:
        return parse_ids(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().upper() for name in text.removeprefix("+").split(","))
    if unknown := [name for name in names if name not in _CELLS]:
        raise argparse.ArgumentTypeError(f"there is no column {unknown[0]}, only {', '.join(_CELLS).lower()}")
    return (*(_COLUMNS if text.startswith("+") else ()), *names)


def _driver(entry: Entry, output: Output) -> str:
    device = entry.device
    return output.paint(device.driver or "-", Style.GREEN if device.has_vfio_driver else Style.PLAIN)


def _viable(entry: Entry, output: Output) -> str:
    fine = entry.viable or entry.device.is_bridge
    return output.paint(entry.viability, Style.PLAIN if fine else Style.YELLOW)


def _viable_in_brief(entry: Entry, output: Output) -> str:
    """VIABLE in fewer words: one of the devices in the way, without domain 0000, and how many more there are."""
    if entry.direct and not entry.device.is_bridge:
        return output.paint("no: firmware claims it", Style.YELLOW)
    if not entry.blocked_by or entry.device.is_bridge:
        return _viable(entry, output)
    first, *others = entry.blocked_by
    more = f" +{len(others)}" if others else ""
    return output.paint(f"no: {first.address.removeprefix('0000:')} {first.driver}{more}", Style.YELLOW)


def _interface(use: InterfaceUse) -> str:
    return f"{use.shown} (default route)" if "default" in use.routes else use.shown


def _or_dash(value: int | str | None) -> str:
    return "-" if value in (None, "") else str(value)


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words) or "-"


_CELLS: _Cells = {
    "ADDRESS": lambda entry, _: entry.device.address,
    "CLASS": lambda entry, _: entry.kind,
    "NAME": lambda entry, _: entry.short_name,
    "DRIVER": _driver,
    "GROUP": lambda entry, _: _or_dash(entry.device.group),
    "VIABLE": _viable,
    "NUMA": lambda entry, _: _or_dash(entry.device.numa_node),
    "CDEV": lambda entry, _: _or_dash((entry.device_node or "").rpartition("/")[2]),
    "NET": lambda entry, _: _joined(map(_interface, entry.interfaces)),
    "ID": lambda entry, _: f"{entry.device.vendor_id:04x}:{entry.device.device_id:04x}",
    "OVERRIDE": lambda entry, _: _or_dash(entry.override),
    "DISKS": lambda entry, _: _joined(entry.disks),
    "CODE": lambda entry, _: f"{entry.device.class_code:06x}",
    "NODE": lambda entry, _: _or_dash(entry.group_node),
    "FULLNAME": lambda entry, _: entry.name,
}

_EXAMPLES: Sequence[tuple[str, str]] = (
    ("pyvfio list", "every function"),
    ("pyvfio list --class ethernet --driver none", "network cards that no driver has"),
    ("pyvfio list eth1", "the function that is eth1"),
    ("pyvfio list nvidia", "whatever is of NVIDIA, or has its driver"),
    ("pyvfio list -o address,id,driver,group", "other columns, nothing cut"),
    ("pyvfio list --json | jq -r '.[] | select(.viable) | .address'", "those VFIO can use"),
)

COMMAND = Command(
    "list",
    "PCI devices with driver, IOMMU group and who spoils it",
    _run,
    _configure,
    description="One row for each PCI function. VIABLE says whether VFIO can use it: yes; once bound: its own driver\n"
    "has it; no: others of its group are in the way, by name; not known yet: a virtio-iommu makes its group only\n"
    "when it is bound. A bridge stays with the host. Rows are cut to fit the terminal, or 100 columns, unless -w, -v\n"
    "or -o ask for more. Names come from pci.ids or systemd's hwdb.",
    examples=_EXAMPLES,
)
