"""Why a device should stay with its driver."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.container import Group
from pyvfio.errors import GroupBusy
from pyvfio.host.foreseen import enabled_functions
from pyvfio.host.guard.console import console_uses
from pyvfio.host.guard.disks import DiskUses
from pyvfio.host.guard.programs import OpenFiles
from pyvfio.host.network import Network
from pyvfio.kernel import Kernel, names_in
from pyvfio.sysfs import (
    DEVICES,
    PciDevice,
    block_devices,
    character_device,
    device_nodes,
    group_node,
    interfaces,
    pci_device,
    virtual_functions,
)


def reasons_to_keep(kernel: Kernel, network: Network, device: PciDevice) -> list[str]:
    """Why the host or a program would miss the driver of a device: a phrase for each reason, none if nobody would.

    Reasons are network interfaces with a route, an address or an established link, or in another network namespace;
    disks and partitions that anybody holds (the kernel is asked, by opening them exclusively and read only); the
    display, the serial port and the keyboard of the console; nodes that a program has open; and virtual functions of
    the device. Interfaces, disks and nodes of the device's virtual functions, and of the devices behind a bridge, count
    as its own. Raises OSError.
    """
    if device.driver is None:
        return []
    reasons = list(_of_functions(kernel, device))
    if device.has_vfio_driver:
        return [*_open_elsewhere(kernel, device), *reasons]
    reasons += _of_interfaces(kernel, network, device)
    reasons += console_uses(kernel, device)
    nodes = device_nodes(kernel, device.address, dependent=True)
    if disks := block_devices(kernel, device.address, dependent=True):
        uses = DiskUses(kernel)
        reasons += [str(use) for disk in disks for use in uses.of(disk)]
        nodes += [f"/dev/{name}" for disk in disks for name in uses.names(disk)]
    if nodes:
        reasons += OpenFiles(kernel).reasons(nodes)
    return list(dict.fromkeys(reasons))


def _of_functions(kernel: Kernel, device: PciDevice) -> Iterator[str]:
    """The reasons that virtual functions of a device give: they go with its driver."""
    for address in virtual_functions(kernel, device.address):
        function = pci_device(kernel, address)
        if function.has_vfio_driver:
            yield from (f"its virtual function {address}: {reason}" for reason in _open_elsewhere(kernel, function))
    if count := enabled_functions(kernel, device.address):
        what = f"{count} virtual functions of it are" if count > 1 else "a virtual function of it is"
        yield f"{what} enabled (echo 0 > {DEVICES}/{device.address}/sriov_numvfs ends that)"


def _of_interfaces(kernel: Kernel, network: Network, device: PciDevice) -> Iterator[str]:
    """The reasons that network interfaces of a device give."""
    for name in interfaces(kernel, device.address, dependent=True):
        yield from network.use(name).reasons
    # Every network namespace shows the directory; only the interface's own shows the interface in it.
    for address in (device.address, *virtual_functions(kernel, device.address)):
        if any(not names_in(kernel, directory) for directory in _net_directories(kernel, f"{DEVICES}/{address}")):
            owner = "its network interface" if address == device.address else f"the interface of {address}"
            yield f"{owner} is in another network namespace"


def _net_directories(kernel: Kernel, directory: str) -> Iterator[str]:
    """The directories with the interfaces of a device. A virtio device that is made of it has one of its own."""
    names = names_in(kernel, directory)
    if "net" in names:
        yield f"{directory}/net"
    for name in names:
        if name.startswith("virtio") and "net" in names_in(kernel, f"{directory}/{name}"):
            yield f"{directory}/{name}/net"


def _open_elsewhere(kernel: Kernel, device: PciDevice) -> list[str]:
    """The reasons to keep a device that is bound to a VFIO driver: programs that have it open."""
    # Before the kernel unbinds it, it waits until the program has closed it: perhaps for ever.
    nodes = [] if device.group is None else [group_node(kernel, device.group)]
    if node := character_device(kernel, device.address):
        nodes.append(node)
    if reasons := OpenFiles(kernel).reasons(nodes):
        return [f"{reason}, and unbinding waits until it closes it" for reason in reasons]
    if device.group is None:
        return []
    # The kernel also knows of a program that /proc does not show, and of one that uses the group without its node open.
    try:
        Group(device.group, kernel=kernel).close()
    except GroupBusy:
        return [f"a program has group {device.group} open, and unbinding waits until it closes it"]
    except OSError:  # no node, or none that may be opened: nobody else has it
        return []
    return []
