"""What the kernel's answers to a container mean. Source: drivers/vfio/container.c and vfio_iommu_type1.c."""

from __future__ import annotations

import errno

from pyvfio.errors import NotMapped
from pyvfio.explain import Meanings

ATTACH: Meanings = {
    errno.EINVAL: (
        "the group is in a container already, or its IOMMU reserves addresses that are mapped here",
        "Open one container for each, or unmap what lies outside the ranges of a group attached alone",
    ),
    errno.EPERM: (
        "the group has no IOMMU and this container has, or the other way round; or a member is claimed elsewhere",
        "Use a container of its own",
    ),
    errno.EBUSY: (
        "the group's devices are in use by something else, or a live update of this container is not over",
        "Close that, or update_vaddr() every mapping first",
    ),
    errno.ENODEV: ("the group's last device was taken from the VFIO driver", "pyvfio list shows what is bound"),
    errno.EBADFD: ("the descriptor is no container's", "It was closed behind this object's back"),
    errno.ENOMEM: (
        "entering what is mapped for the group exceeds RLIMIT_MEMLOCK or the memory there is",
        "Unmap some, or raise the limit: ulimit -l, LimitMEMLOCK= or prlimit --memlock",
    ),
    errno.EFAULT: (
        "some of what is mapped cannot be pinned for the group: its pages are gone",
        "Unmap memory before it is discarded",
    ),
}
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
