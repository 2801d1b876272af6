"""pyvfio list"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Output
from pyvfio.host.pci import PciDevice, blocking_members, pci_devices
from pyvfio.kernel import Kernel, LinuxKernel


def _run(_: argparse.Namespace, output: Output) -> int:
    kernel = LinuxKernel()
    devices = pci_devices(kernel)
    output.data([_data(kernel, device) for device in devices])
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
    output.table(rows)
    return 0


def _viability(kernel: Kernel, device: PciDevice) -> str:
    if device.group is None:
        return "no IOMMU"
    blocking = blocking_members(kernel, device.group)
    if not blocking:
        return "yes"
    return "no: " + ", ".join(
        "itself" if member.address == device.address else f"{member.address} {member.driver}" for member in blocking
    )


def _data(kernel: Kernel, device: PciDevice) -> dict[str, object]:
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


COMMAND = Command(
    "list",
    "PCI devices with driver, IOMMU group and its viability",
    _run,
    examples=(("pyvfio list", ""), ("pyvfio list --json", "as data")),
)
