"""The nodes that are opened for a device: its group's, and its own."""

from __future__ import annotations

from collections.abc import Callable

from pyvfio.kernel import Kernel, exists
from pyvfio.sysfs import character_device, group_node, pci_device


def wait_for_nodes(kernel: Kernel, address: str, wait: Callable[[str], None]) -> list[str]:
    """Every node that the kernel makes for a device, once it is there: its group's first, then its own.

    None while no VFIO driver has it, and before wait(path) returned for each: wait_for_node() with its events.
    A kernel without CONFIG_VFIO_GROUP makes none for groups: it has no class of them in sysfs either.
    """
    device = pci_device(kernel, address)
    if not device.has_vfio_driver or device.group is None:
        return []
    own = character_device(kernel, address)
    of_group = group_node(kernel, device.group)
    nodes = [own] if own else []
    if exists(kernel, of_group) or own is None or exists(kernel, "/sys/class/vfio"):
        nodes.insert(0, of_group)
    for node in nodes:
        wait(node)
    return nodes
