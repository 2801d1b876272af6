"""What a device must not be taken from the host for."""

from __future__ import annotations

from pyvfio.container import Group
from pyvfio.errors import GroupBusy
from pyvfio.host.disks import DiskUses
from pyvfio.host.network import Network
from pyvfio.kernel import Kernel
from pyvfio.sysfs import PciDevice, block_devices, interfaces


def reasons_to_keep(kernel: Kernel, network: Network, device: PciDevice) -> list[str]:
    """Why the host, or a program on it, would miss the driver of a device: one phrase each, none if nobody would.

    Looked at: network interfaces with a route, an address or an established link; disks with a mounted file system or
    swap, directly or through partitions, LVM, md and dm-crypt; VFIO devices that a program has open. Those of the
    device's SR-IOV functions, and of what is behind a bridge, are its own.
    """
    if device.driver is None:
        return []
    if device.has_vfio_driver:
        return _open_elsewhere(kernel, device)
    reasons = [
        reason for name in interfaces(kernel, device.address, dependent=True) for reason in network.use(name).reasons
    ]
    if disks := block_devices(kernel, device.address, dependent=True):
        uses = DiskUses(kernel)
        reasons += [str(use) for disk in disks for use in uses.of(disk)]
    return reasons


def _open_elsewhere(kernel: Kernel, device: PciDevice) -> list[str]:
    """The kernel waits until a program has closed a VFIO device before it unbinds it: perhaps for ever."""
    if device.group is None:
        return []
    try:
        Group(device.group, kernel=kernel).close()
    except GroupBusy:
        return [f"a program has group {device.group} open, and unbinding waits until it closes it"]
    except OSError:  # no node, or none that may be opened: nobody else has it
        return []
    return []
