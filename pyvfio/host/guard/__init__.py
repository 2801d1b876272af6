"""Why a device should stay with its driver."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.container import Group
from pyvfio.errors import GroupBusy
from pyvfio.host.foreseen import enabled_functions
from pyvfio.host.guard.console import console_uses
from pyvfio.host.guard.disks import DiskUses, node_of
from pyvfio.host.guard.exports import Exports
from pyvfio.host.guard.programs import OpenFiles
from pyvfio.host.guard.virtio import virtio_uses
from pyvfio.host.network import Network
from pyvfio.kernel import Kernel
from pyvfio.sysfs import (
    DEVICES,
    PciDevice,
    block_devices,
    character_device,
    device_nodes,
    functions_with_distant_interfaces,
    group_node,
    interfaces,
    mediated_devices,
    of_class,
    pci_device,
    virtual_functions,
)


def reasons_to_keep(kernel: Kernel, network: Network, device: PciDevice) -> list[str]:
    """Why the host or a program would miss the driver of a device: a phrase for each reason, none if nobody would.

    Reasons are network interfaces with a route, an address or an established link, or in another network namespace;
    disks and partitions that anybody holds (the kernel is asked, by opening them exclusively and read only), or about
    which it could not be asked; file systems and memory by virtio; the display, the serial port and the keyboard of the
    console; nodes that a program has open, or an NVMe target offers; mediated devices in use; and virtual functions of
    the device. Interfaces, disks and nodes of the device's virtual functions, and of the devices behind a bridge, count
    as its own. Without a driver it may still be the display of the boot. Raises OSError.
    """
    if device.driver is None:
        return list(console_uses(kernel, device))
    reasons = list(_of_functions(kernel, device))
    for part in mediated_devices(kernel, device.address):
        open_elsewhere = _open_elsewhere(kernel, part.group, part.node)
        reasons += [f"its mediated device {part.name}: {reason}" for reason in open_elsewhere]
    if device.has_vfio_driver:
        return [*_device_open_elsewhere(kernel, device), *reasons]
    reasons += _of_interfaces(kernel, network, device)
    reasons += console_uses(kernel, device)
    reasons += virtio_uses(kernel, device)
    reasons += [f"{unit} is an IOMMU of the host" for unit in of_class(kernel, "iommu", device.address)]
    nodes = device_nodes(kernel, device.address, dependent=True)
    if disks := block_devices(kernel, device.address, dependent=True):
        uses = DiskUses(kernel)
        reasons += [str(use) for disk in disks for use in uses.of(disk)]
        nodes += [node_of(name) for disk in disks for name in uses.names(disk)]
    if nodes:
        reasons += OpenFiles(kernel).reasons(nodes)
        exports = Exports(kernel)
        for node in nodes:
            reasons += [f"the NVMe target {name} offers {node} to other hosts" for name in exports.targets_of(node)]
    return list(dict.fromkeys(reasons))


def _of_functions(kernel: Kernel, device: PciDevice) -> Iterator[str]:
    """The reasons that virtual functions of a device give: they go with its driver."""
    for address in virtual_functions(kernel, device.address):
        function = pci_device(kernel, address)
        if function.has_vfio_driver:
            yield from (
                f"its virtual function {address}: {reason}" for reason in _device_open_elsewhere(kernel, function)
            )
    if count := enabled_functions(kernel, device.address):
        what = f"{count} virtual functions of it are" if count > 1 else "a virtual function of it is"
        yield f"{what} enabled (echo 0 > {DEVICES}/{device.address}/sriov_numvfs ends that)"


def _of_interfaces(kernel: Kernel, network: Network, device: PciDevice) -> Iterator[str]:
    """The reasons that network interfaces of a device give."""
    for name in interfaces(kernel, device.address, dependent=True):
        yield from network.use(name).reasons
    for function in functions_with_distant_interfaces(kernel, device.address):
        owner = "its network interface" if function == device.address else f"the interface of {function}"
        yield f"{owner} is in another network namespace"


def _device_open_elsewhere(kernel: Kernel, device: PciDevice) -> list[str]:
    """The reasons to keep a device that is bound to a VFIO driver: programs that have it open."""
    return _open_elsewhere(kernel, device.group, character_device(kernel, device.address))


def _open_elsewhere(kernel: Kernel, group: int | None, node: str | None) -> list[str]:
    """The reasons that programs give which have a group open, or a device of it by its own node."""
    # Before the kernel unbinds it, it waits until the program has closed it: perhaps for ever.
    nodes = [] if group is None else [group_node(kernel, group)]
    if node is not None:
        nodes.append(node)
    if reasons := OpenFiles(kernel).reasons(nodes):
        return [f"{reason}, and unbinding waits until it closes it" for reason in reasons]
    if group is None:
        return []
    # The kernel also knows of a program that /proc does not show, and of one that uses the group without its node open.
    try:
        Group(group, kernel=kernel).close()
    except GroupBusy:
        return [f"a program has group {group} open, and unbinding waits until it closes it"]
    except OSError:  # no node, or none that may be opened: nobody else has it
        return []
    return []
