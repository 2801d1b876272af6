"""pyvfio show"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pyvfio.cli.entries import entry_data
from pyvfio.commandline import Command, Output, Style
from pyvfio.errors import VfioError
from pyvfio.host import DeviceDetails, Entry, Host, device_details, inventory
from pyvfio.kernel import Kernel, names_in, text_or_empty
from pyvfio.sysfs import DEVICES, PciDevice, group_members, pci_device
from pyvfio.units import format_size


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="BDF", help="PCI address, 0000:03:00.0 or 03:00.0")


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    (entry,) = inventory(kernel, host.network, [pci_device(kernel, options.address)])
    device = entry.device
    members = [] if device.group is None else group_members(kernel, device.group)
    resets = _reset_methods(kernel, device.address)
    reset = ", ".join(resets) or _unnamed_reset(kernel, device.address)
    details, unavailable = None, f"bind it to see regions and interrupts: pyvfio bind {device.address}"
    if device.has_vfio_driver:
        try:
            details = device_details(kernel, device.address)
        except VfioError as error:
            unavailable = str(error)
    output.data(
        {
            **entry_data(entry),
            "group_members": [{"address": member.address, "driver": member.driver} for member in members],
            "reset_methods": list(resets),
            "vfio": None if details is None else asdict(details),
            "vfio_unavailable": None if details else unavailable,
        }
    )
    output.text(output.paint(f"{device.address}  {entry.kind}  {entry.name}", Style.BOLD))
    vfio = [("vfio", unavailable)] if details is None else _vfio_rows(details)
    for name, text in [*_host_rows(entry, members, reset), *vfio]:
        if text:
            output.text(f"  {name:<10}  {text}")
    return 0


def _reset_methods(kernel: Kernel, address: str) -> list[str]:
    """How the host can reset the function, in the order it tries: Linux 5.15."""
    return text_or_empty(kernel, f"{DEVICES}/{address}/reset_method").split()


def _unnamed_reset(kernel: Kernel, address: str) -> str:
    """Older kernels have the file that resets only where they can."""
    is_possible = "reset" in names_in(kernel, f"{DEVICES}/{address}")
    return "yes (this kernel does not say how)" if is_possible else "no method of its own"


def _host_rows(entry: Entry, members: Sequence[PciDevice], reset: str) -> Iterator[tuple[str, str]]:
    device = entry.device
    others = (
        f"{member.address} {member.driver or '(no driver)'}" for member in members if member.address != device.address
    )
    yield "id", f"{device.vendor_id:04x}:{device.device_id:04x} class {device.class_code:06x}"
    yield "driver", (device.driver or "none") + (f" (override {entry.override})" if entry.override else "")
    yield "group", "none" if device.group is None else f"{device.group}, viable: {entry.viability}"
    yield "beside", ", ".join(others)
    yield "node", ", ".join(filter(None, (entry.group_node, entry.device_node)))
    yield "numa", "" if device.numa_node is None else f"node {device.numa_node}"
    yield "network", ", ".join(reason for use in entry.interfaces for reason in use.reasons or [f"{use.name} unused"])
    yield "disks", ", ".join(entry.disks)
    yield "reset", reset


def _vfio_rows(details: DeviceDetails) -> Iterator[tuple[str, str]]:
    yield "vfio reset", "yes" if details.can_reset else "not alone"
    for region in details.regions:
        yield "region", f"{region.index:>2}  {region.name:<8}  {format_size(region.size):>10}  {' '.join(region.flags)}"
    for irq in details.interrupts:
        yield "interrupts", f"{irq.index:>2}  {irq.name:<8}  {irq.count:>10}  {' '.join(irq.flags)}"
    for capability in details.capabilities:
        kind = "  extended" if capability.extended else ""
        yield "capability", f"{capability.offset:#06x}  {capability.name}{kind}"
    yield "capability", details.capabilities_unavailable or ""
    for feature in details.features:
        yield "feature", f"{feature.name}  {' '.join(feature.access)}"


COMMAND = Command(
    "show",
    "one device: regions, interrupts, capabilities, features, reset",
    _run,
    _configure,
    description="Everything about one device. What sysfs tells is always shown; regions, interrupts, capabilities and\n"
    "features come from VFIO, so they need the device bound, its group viable, and nobody else using it.",
    examples=(("pyvfio show 03:00.0", "for people"), ("pyvfio show --json 03:00.0", "as data")),
)
