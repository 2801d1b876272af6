"""What the kernel's answers to a container mean. Source: drivers/vfio/container.c and vfio_iommu_type1.c."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from pyvfio.errors import NotMapped
from pyvfio.explain import Meanings

MIXED: Mapping[bool, tuple[str, str]] = {
    False: ("the group has an IOMMU, and those that are in the container have none", "Use a container of its own"),
    True: ("the group has no IOMMU, and those that are in the container have one", "Use a container of its own"),
}
"""Why a group cannot join those of the other kind, by whether it is the one without an IOMMU."""
ATTACH: Meanings = {
    errno.EINVAL: (
        "the group's IOMMU has no addresses in common with those of the groups here",
        "Open one container for each",
    ),
    errno.EPERM: ("something else has claimed a member of the group, such as an iommufd", "Close it there"),
    errno.EBUSY: ("the group's devices are in use by something else", "Close that"),
    errno.ENODEV: ("the group's last device was taken from the VFIO driver", "pyvfio list shows what is bound"),
    errno.EBADFD: ("the descriptor is no container's", "It was closed behind this object's back"),
}
"""What they mean where nothing is mapped."""
_RAISE = "Unmap some, or raise the limit: ulimit -l, LimitMEMLOCK= or prlimit --memlock"
ATTACH_MAPPED: Meanings = {
    **ATTACH,
    errno.EINVAL: (
        "the group's IOMMU reserves addresses that are mapped here, or has none in common with the groups here",
        "Open one container for each, or unmap what lies outside the ranges of a group attached alone",
    ),
    errno.EBUSY: (
        "the group's devices are in use by something else, or a live update of this container is not over",
        "Close that, or update_vaddr() every mapping first",
    ),
    errno.ENOMEM: ("entering what is mapped for the group exceeds RLIMIT_MEMLOCK or the memory there is", _RAISE),
    errno.EFAULT: (
        "some of what is mapped cannot be pinned for the group: its pages are gone",
        "Unmap memory before it is discarded",
    ),
}
"""What they mean where something may be mapped."""
OPEN_DEVICE: Meanings = {
    errno.EINVAL: ("its driver cannot open it", "The kernel's log may say more: dmesg"),
    errno.EPERM: ("its driver may not open it", "The kernel's log may say more: dmesg"),
    errno.EBUSY: ("something else uses it, or has it as one of several that are reset together", "Close it there"),
}
"""What they mean of a device in a container of type1, which has put the group behind the IOMMU before."""
OPEN_DEVICE_IOMMUFD: Meanings = {
    **OPEN_DEVICE,
    errno.EINVAL: (
        "its driver cannot open it, or another device of its group is attached to another address space",
        "The kernel's log may say more: dmesg",
    ),
    errno.EPERM: (
        "the platform cannot remap interrupts",
        "If every device is trusted, as root: modprobe iommufd allow_unsafe_interrupts=1",
    ),
}
"""What they mean in a container of iommufd's compatibility, which puts a device behind the IOMMU only then."""
OPEN_DEVICE_MAPPED: Meanings = {
    **OPEN_DEVICE_IOMMUFD,
    errno.EADDRINUSE: (
        "its IOMMU reserves addresses that are mapped in the container already",
        "Open devices first, then map inside iova_ranges",
    ),
    errno.EFAULT: ("some of what is mapped in the container cannot be pinned for it", "Populate memory before mapping"),
    errno.ENOMEM: ("pinning what is mapped in the container exceeds RLIMIT_MEMLOCK or the memory there is", _RAISE),
}
"""The same, where something may be mapped."""
DETACH: Meanings = {
    errno.EINVAL: ("the group is not attached", "attach() it first"),
    errno.EBUSY: ("a device of the group is open in another process", "Close it there"),
}
SET_IOMMU: Meanings = {
    errno.EPERM: (
        "the platform cannot remap interrupts, so a device could forge them",
        "If every device is trusted, as root: echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
    ),
    errno.EINVAL: (
        "the IOMMU was chosen already, through another copy of the descriptor, or is not for these groups",
        "Container.from_fd() takes a container over that others have set up",
    ),
    errno.ENODEV: ("no type1 IOMMU driver", "As root: modprobe vfio_iommu_type1"),
    errno.EIO: ("the IOMMU made no domain for the group", "The kernel's log may say more: dmesg"),
}
NOIOMMU_OFF = (
    "VFIO's unsafe mode for devices without an IOMMU is off",
    "As root: echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
)
INVALIDATE: Meanings = {
    errno.EINVAL: ("some addresses are invalid already", "Nothing has changed; update_vaddr() them first"),
    errno.EBUSY: ("a mediated device, which pins by address, is in the container", "Close it first"),
}
GET_INFO: Meanings = {
    errno.EINVAL: ("the container has lost its IOMMU: its last group is gone", "Attach a group again"),
    errno.ENODEV: ("iommufd has no address space for container ioctls", "Attach a group first"),
}


def not_waiting(iova: int, size: int, code: int) -> NotMapped:
    """Why update_vaddr() cannot give the mapping of size bytes at iova an address. code: the errno."""
    arguments = {"iova": iova, "size": size}
    meaning = "no mapping of exactly these addresses waits for one of this process"
    return NotMapped(
        code, "update_vaddr", arguments, meaning, "Tell them as they were mapped, after invalidate_vaddrs()"
    )
