"""Checks of modules, and of the nodes that programs open."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from pyvfio.host.doctor.check import Check, Status
from pyvfio.kernel import Kernel, exists, names_in

_CONTAINER = "/dev/vfio/vfio"
_IOMMUFD = "/dev/iommu"


def check_modules(kernel: Kernel) -> Iterator[Check]:
    """Whether the kernel has containers, type1 and vfio-pci, as modules that are loaded or built in."""
    # A kernel may have iommufd alone: then only programs that need a container have a problem.
    missing = Status.WARN if _open(kernel, _IOMMUFD) is None else Status.FAIL
    failure = _open(kernel, _CONTAINER)
    if failure is None:
        yield Check("vfio", Status.OK, f"{_CONTAINER} can be opened")
    elif failure in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        yield Check("vfio", missing, f"no {_CONTAINER}", "as root: modprobe vfio")
    else:
        fix = f"as root: chmod 0666 {_CONTAINER} (it gives no rights to devices)"
        yield Check("vfio", Status.FAIL, f"{_CONTAINER}: {os.strerror(failure)}", fix)
    if exists(kernel, "/sys/module/vfio_iommu_type1"):
        yield Check("type1", Status.OK, "vfio_iommu_type1 is there")
    else:
        yield Check("type1", missing, "no IOMMU driver for containers", "as root: modprobe vfio_iommu_type1")
    if exists(kernel, "/sys/bus/pci/drivers/vfio-pci"):
        yield Check("vfio-pci", Status.OK, "the driver is there")
    else:
        yield Check("vfio-pci", Status.FAIL, "no driver to bind devices to", "as root: modprobe vfio-pci")


def check_iommufd(kernel: Kernel) -> Check:
    """Whether the kernel has iommufd, which containers do without, and whether this user may open it."""
    failure = _open(kernel, _IOMMUFD)
    devices = names_in(kernel, "/dev/vfio/devices")
    if failure is None:
        nodes = ", ".join(devices) or "none yet"
        return Check("iommufd", Status.OK, f"{_IOMMUFD} can be opened; device nodes: {nodes}")
    if failure in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Check("iommufd", Status.OK, "not in this kernel: containers serve")
    reason = os.strerror(failure)
    return Check("iommufd", Status.WARN, f"{_IOMMUFD}: {reason}", f"a udev rule, or as root: chmod 0666 {_IOMMUFD}")


def check_group_nodes(kernel: Kernel) -> Iterator[Check]:
    """Whether this user may open the groups with a member that is bound to a VFIO driver."""
    names = [name for name in names_in(kernel, "/dev/vfio") if re.fullmatch(r"(noiommu-)?\d+", name)]
    if not names:
        yield Check("nodes", Status.WARN, "no device is bound to a VFIO driver", "as root: pyvfio bind ADDRESS")
    for name in sorted(names, key=lambda name: int(name.removeprefix("noiommu-"))):
        node = f"/dev/vfio/{name}"
        failure = _open(kernel, node)
        if failure is None:
            yield Check("nodes", Status.OK, f"{node} can be opened")
        elif failure == errno.EBUSY:
            yield Check("nodes", Status.OK, f"{node} is in use by a program")
        else:
            rule = f'SUBSYSTEM=="vfio", KERNEL=="{name}", OWNER="{_user()}"'
            fix = f"as root: chown {_user()} {node}; for good, the udev rule {rule}"
            yield Check("nodes", Status.FAIL, f"{node}: {os.strerror(failure)}", fix)


def _open(kernel: Kernel, path: str) -> int | None:
    """The errno that opening path fails with; None if it can be opened."""
    try:
        fd = kernel.open(path, os.O_RDWR)
    except OSError as error:
        return error.errno or errno.EIO
    kernel.close(fd)
    return None


def _user() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())
