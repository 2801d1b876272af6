"""The pyvfio command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from pyvfio import abi_check
from pyvfio.host.bind import bind, group_addresses, unbind
from pyvfio.host.pci import PciDevice, blocking_members, pci_devices
from pyvfio.kernel import Kernel, LinuxKernel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"pyvfio: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyvfio", description="VFIO devices of this host.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="PCI devices with driver, IOMMU group and its viability")
    listing.add_argument("--json", action="store_true", help="as data")
    listing.set_defaults(run=_list)

    binding = commands.add_parser("bind", help="give devices to vfio-pci (or another driver)")
    binding.add_argument("address", nargs="+", help="PCI address, 0000:03:00.0 or 03:00.0")
    binding.add_argument("--driver", default="vfio-pci", help="the driver to bind to (default: %(default)s)")
    binding.add_argument("--group", action="store_true", help="the whole IOMMU group of each device")
    binding.set_defaults(run=_bind)

    unbinding = commands.add_parser("unbind", help="take devices from their VFIO driver and let the host's have them")
    unbinding.add_argument("address", nargs="+", help="PCI address")
    unbinding.add_argument("--group", action="store_true", help="the whole IOMMU group of each device")
    unbinding.set_defaults(run=_unbind)

    checking = commands.add_parser("abi-check", help="compare the mirrored structs with a tree of kernel headers")
    abi_check.add_arguments(checking)
    checking.set_defaults(run=abi_check.run)
    return parser


def _list(options: argparse.Namespace) -> int:
    kernel = LinuxKernel()
    devices = pci_devices(kernel)
    if options.json:
        print(json.dumps([_as_json(kernel, device) for device in devices], indent=2))
        return 0
    rows = [("ADDRESS", "ID", "DRIVER", "GROUP", "VIABLE")]
    for device in devices:
        rows.append(
            (
                device.address,
                f"{device.vendor_id:04x}:{device.device_id:04x}",
                device.driver or "-",
                "-" if device.group is None else str(device.group),
                _viability(kernel, device),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())
    return 0


def _bind(options: argparse.Namespace) -> int:
    kernel = LinuxKernel()
    for address in _addresses(kernel, options):
        before = bind(kernel, address, options.driver)
        print(f"{before.address}: {before.driver or 'no driver'} -> {options.driver}")
    return 0


def _unbind(options: argparse.Namespace) -> int:
    kernel = LinuxKernel()
    for address in _addresses(kernel, options):
        print(f"{address}: {unbind(kernel, address) or 'no driver'}")
    return 0


def _addresses(kernel: Kernel, options: argparse.Namespace) -> list[str]:
    addresses: list[str] = options.address
    if options.group:
        addresses = [member for address in addresses for member in group_addresses(kernel, address)]
    return list(dict.fromkeys(addresses))


def _viability(kernel: Kernel, device: PciDevice) -> str:
    if device.group is None:
        return "no IOMMU"
    blocking = blocking_members(kernel, device.group)
    if not blocking:
        return "yes"
    return "no: " + ", ".join(
        "itself" if member.address == device.address else f"{member.address} {member.driver}" for member in blocking
    )


def _as_json(kernel: Kernel, device: PciDevice) -> dict[str, object]:
    blocking = [] if device.group is None else blocking_members(kernel, device.group)
    return {
        "address": device.address,
        "vendor_id": device.vendor_id,
        "device_id": device.device_id,
        "class_code": device.class_code,
        "driver": device.driver,
        "group": device.group,
        "viable": device.group is not None and not blocking,
        "blocked_by": [member.address for member in blocking],
        "numa_node": device.numa_node,
    }
