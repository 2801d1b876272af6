"""The nodes that programs open for a device: its group's, and its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pyvfio.errors import VfioError
from pyvfio.host.rules import Owner
from pyvfio.kernel import Kernel, exists
from pyvfio.sysfs import DEVICES, character_device, group_node, pci_device


def nodes_of(kernel: Kernel, address: str) -> list[str]:
    """The paths of the device's nodes that exist, its group's first; empty while no VFIO driver has the device."""
    device = pci_device(kernel, address)
    if not device.has_vfio_driver or device.group is None:
        return []
    nodes = (group_node(kernel, device.group), character_device(kernel, address))
    return [node for node in nodes if node is not None and exists(kernel, node)]


def owners_of(kernel: Kernel, address: str) -> dict[str, tuple[int, int]]:
    """The user and group of each node that is there, of the device's "group", whoever has that, and of the "device"."""
    return {kind: kernel.owner(node) for kind, node in _nodes_by_kind(kernel, address).items()}


def put_owners(kernel: Kernel, address: str, owners: Mapping[str, tuple[int, int]]) -> None:
    """Give the nodes of a device that are there to these users and groups. Raises VfioError."""
    for node, (uid, gid) in owned_nodes(kernel, address, owners).items():
        try:
            if kernel.owner(node) != (uid, gid):
                kernel.chown(node, uid, gid)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, f"chown {uid}:{gid} {node}") from error


def owned_nodes(kernel: Kernel, address: str, owners: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The nodes of a device that are there, by path, with the user and group that owners has for each."""
    return {node: owners[kind] for kind, node in _nodes_by_kind(kernel, address).items() if kind in owners}


def _nodes_by_kind(kernel: Kernel, address: str) -> dict[str, str]:
    device = pci_device(kernel, address)
    of_group = None if device.group is None else group_node(kernel, device.group)
    nodes = {"group": of_group, "device": character_device(kernel, address)}
    return {kind: node for kind, node in nodes.items() if node is not None and exists(kernel, node)}


def give_nodes(kernel: Kernel, addresses: Sequence[str], owner: Owner) -> None:
    """Give the nodes of devices to owner. If one cannot be given, all are given back, and VfioError is raised."""
    before: dict[str, tuple[int, int]] = {}
    node = ""
    try:
        for node in dict.fromkeys(node for address in addresses for node in nodes_of(kernel, address)):
            before[node] = kernel.owner(node)
            kernel.chown(node, owner.uid, owner.gid)
    except OSError as error:
        for given, former in before.items():
            with suppress(OSError):
                kernel.chown(given, *former)
        raise VfioError(error.errno or errno.EIO, f"chown {owner} {node}") from error


def give_nodes_script(kernel: Kernel, addresses: Sequence[str], owner: Owner) -> list[str]:
    """The lines of a shell script that does what give_nodes() does. The devices need not be bound yet."""
    lines = []
    for address in addresses:
        group = pci_device(kernel, address).group
        lines += [] if group is None else [f"chown {owner} {group_node(kernel, group)}"]
        lines.append(
            f"for node in $(ls {DEVICES}/{address}/vfio-dev); do test ! -e /dev/vfio/devices/$node || "
            f"chown {owner} /dev/vfio/devices/$node; done"
        )
    return list(dict.fromkeys(lines))


def wait_for_nodes(kernel: Kernel, address: str, wait: Callable[[str], None]) -> list[str]:
    """Wait for every node that the kernel makes for a device; return their paths, its group's first, then its own.

    wait: waits until there is a file at a path, as wait_for_node() does. Without a VFIO driver a device has no nodes.
    Raises InvalidArgument, DeviceNotBound, and what wait raises.
    """
    device = pci_device(kernel, address)
    if not device.has_vfio_driver or device.group is None:
        return []
    own = character_device(kernel, address)
    of_group = group_node(kernel, device.group)
    nodes = [own] if own else []
    # A kernel without CONFIG_VFIO_GROUP makes no nodes for groups, and has no class of them in sysfs either.
    if exists(kernel, of_group) or own is None or exists(kernel, "/sys/class/vfio"):
        nodes.insert(0, of_group)
    for node in nodes:
        wait(node)
    return nodes
