"""Checks of the nodes that programs open."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import suppress

from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.surroundings import is_container
from pyvfio.kernel import Kernel, exists, names_in
from pyvfio.sysfs import PciDevice, character_device, group_node, pci_devices

CONTAINER = "/dev/vfio/vfio"
IOMMUFD = "/dev/iommu"
ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
"""The errnos of opening a node that is not there, or that no driver stands behind."""


def check_iommufd(kernel: Kernel) -> Check:
    """Whether the kernel has iommufd, which containers do without, and whether this user may open it."""
    failure = failure_to_open(kernel, IOMMUFD)
    devices = names_in(kernel, "/dev/vfio/devices")
    if failure is None:
        nodes = ", ".join(devices) or "none yet"
        return Check("iommufd", Status.OK, f"{IOMMUFD} can be opened; device nodes: {nodes}")
    if failure in ABSENT:
        serves = ": containers serve" if failure_to_open(kernel, CONTAINER) is None else ""
        return Check("iommufd", Status.OK, f"not in this kernel{serves}")
    reason = os.strerror(failure)
    return Check("iommufd", Status.WARN, f"{IOMMUFD}: {reason}", f"a udev rule, or as root: chmod 0666 {IOMMUFD}")


def check_group_nodes(kernel: Kernel) -> Iterator[Check]:
    """Whether this user may open the nodes of what is bound to VFIO: all that sysfs knows of, whatever is in /dev."""
    bound = [device for device in pci_devices(kernel) if device.has_vfio_driver and device.group is not None]
    if not bound:
        yield Check("nodes", Status.WARN, "no device is bound to a VFIO driver", "as root: pyvfio bind ADDRESS")
    nodes: dict[str, PciDevice] = {}
    for device in bound:
        nodes.setdefault(_node(kernel, device), device)
    for node, device in sorted(nodes.items(), key=lambda each: (len(each[0]), each[0])):
        yield _check_node(kernel, node, device)


def failure_to_open(kernel: Kernel, path: str) -> int | None:
    """The errno that opening path fails with; None if it can be opened."""
    try:
        fd = kernel.open(path, os.O_RDWR)
    except OSError as error:
        return error.errno or errno.EIO
    kernel.close(fd)
    return None


def how_to_pass_in(kernel: Kernel, node: str) -> str:
    """What to do about a node that the kernel has and /dev has not, as a phrase."""
    if is_container(kernel):
        return f"pass it into this container, docker and podman: --device {node}"
    return f"udev or devtmpfs makes it; a container has to be given it: --device {node}"


def _node(kernel: Kernel, device: PciDevice) -> str:
    """The node that programs open for a device: its group's, or its own if the kernel makes none for groups."""
    # A kernel without CONFIG_VFIO_GROUP has no class of groups in sysfs either.
    assert device.group is not None
    node, own = group_node(kernel, device.group), character_device(kernel, device.address)
    is_made = exists(kernel, f"/sys/class/vfio/{node.rpartition('/')[2]}")
    return own if own and not is_made and failure_to_open(kernel, node) == errno.ENOENT else node


def _check_node(kernel: Kernel, node: str, device: PciDevice) -> Check:
    failure = failure_to_open(kernel, node)
    if failure is None:
        return Check("nodes", Status.OK, f"{node} can be opened")
    if failure == errno.EBUSY:
        return Check("nodes", Status.OK, f"{node} is in use by a program")
    if failure in ABSENT:
        found = f"{device.address} is bound to {device.driver}, but {node} is not here"
        return Check("nodes", Status.FAIL, found, how_to_pass_in(kernel, node))
    found = f"{node}: {os.strerror(failure)}"
    if failure == errno.EPERM or os.geteuid() == 0:
        # Permissions do not keep root out.
        fix = f"this container's device rules do not allow it: {how_to_pass_in(kernel, node)}"
        if "noiommu" in node:
            fix = "run it as root: without an IOMMU the kernel wants CAP_SYS_RAWIO"
        return Check("nodes", Status.FAIL, found, fix)
    return Check("nodes", Status.FAIL, found, f"as root: pyvfio bind --owner {_user()} {device.address}")


def _user() -> str:
    """The user who runs this: the name, or the number if it has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())
