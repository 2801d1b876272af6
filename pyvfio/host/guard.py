"""Why a device should stay with its driver."""

from __future__ import annotations

from pyvfio.container import Group
from pyvfio.errors import GroupBusy
from pyvfio.host.disks import DiskUses
from pyvfio.host.network import Network
from pyvfio.kernel import Kernel
from pyvfio.sysfs import PciDevice, block_devices, interfaces


def reasons_to_keep(kernel: Kernel, network: Network, device: PciDevice) -> list[str]:
    """Why the host or a program would miss the driver of a device: a phrase for each reason, none if nobody would.

    Reasons are network interfaces with a route, an address or an established link; disks with a mounted file system or
    swap, directly or through partitions, LVM, md and dm-crypt; and a program that has a VFIO device open. Interfaces
    and disks of the device's virtual functions, and of the devices behind a bridge, count as its own. Raises OSError.
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
    """The reason to keep a device that is bound to a VFIO driver: a program has its group open."""
    # Before the kernel unbinds it, it waits until the program has closed it: perhaps for ever.
    if device.group is None:
        return []
    try:
        Group(device.group, kernel=kernel).close()
    except GroupBusy:
        return [f"a program has group {device.group} open, and unbinding waits until it closes it"]
    except OSError:  # no node, or none that may be opened: nobody else has it
        return []
    return []
