"""pyvfio show"""

from __future__ import annotations

import argparse
import errno
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pyvfio.cli.changes import DEVICE_HELP
from pyvfio.cli.entries import entry_data
from pyvfio.commandline import Command, Output, Style
from pyvfio.device import PciCapability
from pyvfio.errors import VfioError
from pyvfio.host import DeviceDetails, Entry, Host, device_details, inventory
from pyvfio.host.inspect import Resource, capabilities, config_image, in_words, reset_methods, resources
from pyvfio.kernel import Kernel
from pyvfio.sysfs import PciDevice, group_members, named_device
from pyvfio.units import format_size

_NOBODY = 0xFFFF


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="BDF", help=DEVICE_HELP)
    parser.add_argument(
        "--open",
        action="store_true",
        help="open it too, which resets it, for what only VFIO tells",
    )


def _run(options: argparse.Namespace, output: Output) -> int:
    host: Host = options.host
    kernel = host.kernel
    (entry,) = inventory(kernel, host.network, [named_device(kernel, options.address)])
    device = entry.device
    members = [] if device.group is None else group_members(kernel, device.group)
    resets = reset_methods(kernel, device.address)
    bars = list(resources(kernel, device.address))
    listed, unreadable = _capabilities(kernel, device.address)
    details, unavailable = _details(kernel, device, resets, is_wanted=options.open)
    output.data(
        {
            **entry_data(entry),
            "group_members": [{"address": member.address, "driver": member.driver} for member in members],
            "reset_methods": resets,
            "resources": [asdict(bar) for bar in bars],
            "capabilities": None if listed is None else [_capability_data(each) for each in listed],
            "capabilities_unavailable": unreadable,
            "vfio": None if details is None else asdict(details),
            "vfio_unavailable": None if details else unavailable,
        }
    )
    output.text(output.paint(f"{device.address}  {entry.kind}  {entry.name}", Style.BOLD))
    vfio = [("vfio", unavailable)] if details is None else _vfio_rows(details, with_capabilities=listed is None)
    rows = [*_host_rows(entry, members, resets), *_sysfs_rows(bars, listed, unreadable, brief=details is not None)]
    for name, text in [*rows, *vfio]:
        if text:
            output.text(f"  {name:<10}  {text}")
    return 0


def _details(
    kernel: Kernel, device: PciDevice, resets: Sequence[str] | None, *, is_wanted: bool
) -> tuple[DeviceDetails | None, str]:
    """What VFIO tells of the device, or None and why it does not."""
    if not device.has_vfio_driver:
        return None, f"bind it to see what VFIO makes of it: pyvfio bind {device.address}"
    if not is_wanted:
        what = "opens it" if resets == [] else "opens it, which resets it"
        return None, f"not opened; --open {what}, and shows interrupts and features"
    try:
        return device_details(kernel, device.address), ""
    except VfioError as error:
        return None, str(error)


def _capabilities(kernel: Kernel, address: str) -> tuple[list[PciCapability] | None, str | None]:
    """The capabilities in config space, or None and why they cannot be told. sysfs shows them: no device is opened."""
    try:
        config = config_image(kernel, address)
        if config.vendor_id == _NOBODY:
            return None, "it does not answer: its config space reads all ones"
        return list(capabilities(config)), None
    except VfioError as error:
        return None, f"{error.meaning}. {error.advice}" if error.errno == errno.EACCES else str(error)
    except OSError as error:
        return None, f"config space cannot be read: {error.strerror}"


def _capability_data(capability: PciCapability) -> dict[str, object]:
    return {
        "name": capability.name,
        "id": capability.id,
        "extended": capability.extended,
        "offset": capability.offset,
        "text": in_words(capability),
    }


def _host_rows(entry: Entry, members: Sequence[PciDevice], resets: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    device = entry.device
    others = (
        f"{member.address} {member.driver or '(no driver)'}" for member in members if member.address != device.address
    )
    yield "id", f"{device.vendor_id:04x}:{device.device_id:04x} class {device.class_code:06x}"
    yield "driver", (device.driver or "none") + (f" (override {entry.override})" if entry.override else "")
    yield "group", f"{'none' if device.group is None else device.group}, viable: {entry.viability}"
    yield "beside", ", ".join(others)
    yield "node", ", ".join(filter(None, (entry.group_node, entry.device_node)))
    yield "numa", "" if device.numa_node is None else f"node {device.numa_node}"
    yield "network", ", ".join(reason for use in entry.interfaces for reason in use.reasons or [f"{use.shown} unused"])
    yield "disks", ", ".join(entry.disks)
    if resets is None:
        yield "reset", "yes (this kernel does not say how)"
    else:
        yield "reset", ", ".join(resets) or "no method of its own"


def _sysfs_rows(
    bars: Sequence[Resource], listed: Sequence[PciCapability] | None, unreadable: str | None, *, brief: bool
) -> Iterator[tuple[str, str]]:
    """The rows of what sysfs tells. brief: without those that VFIO's own rows repeat."""
    for bar in [] if brief else bars:
        words = [bar.kind, "64 bits" if bar.is_64bit else "", "prefetchable" if bar.prefetchable else ""]
        yield "resource", f"{bar.index:>2}  {bar.name:<8}  {format_size(bar.size):>10}  {' '.join(filter(None, words))}"
    if listed is None and not brief:
        yield "capability", unreadable or ""
    for capability in listed or ():
        kind = "  extended" if capability.extended else ""
        text = in_words(capability)
        yield "capability", f"{capability.offset:#06x}  {capability.name}{kind}" + (f"  {text}" if text else "")


def _vfio_rows(details: DeviceDetails, *, with_capabilities: bool) -> Iterator[tuple[str, str]]:
    yield "vfio reset", "yes" if details.can_reset else "not alone"
    for region in details.regions:
        yield "region", f"{region.index:>2}  {region.name:<8}  {format_size(region.size):>10}  {' '.join(region.flags)}"
    for irq in details.interrupts:
        yield "interrupts", f"{irq.index:>2}  {irq.name:<8}  {irq.count:>10}  {' '.join(irq.flags)}"
    for capability in details.capabilities if with_capabilities else ():
        yield "capability", f"{capability.offset:#06x}  {capability.name}{'  extended' if capability.extended else ''}"
    yield "capability", details.capabilities_unavailable or ""
    for feature in details.features:
        yield "feature", f"{feature.name}  {' '.join(feature.access)}"


COMMAND = Command(
    "show",
    "one device: driver, group, reset, regions, capabilities",
    _run,
    _configure,
    description="Everything that sysfs tells of one device; nothing about it changes. --open opens it through VFIO as\n"
    "well, for its regions, interrupts and features as a program gets them. That resets it, if it can be reset alone,\n"
    "and needs it bound, its group viable, and nobody else using it.",
    examples=(
        ("pyvfio show 03:00.0", "without touching it"),
        ("pyvfio show --open 03:00.0", "with what VFIO makes of it"),
        ("pyvfio show --json eth1", "as data; by its interface"),
    ),
)
