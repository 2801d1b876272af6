"""How iommufd takes its commands. Source: drivers/iommu/iommufd/main.c, iommufd_fops_ioctl."""

from __future__ import annotations

import ctypes
import errno

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.io_pagetable import READ, WRITE
from pyvfio.sim.process.user import S, UserMemory, fail


def command_in(user: UserMemory, kind: type[S], smallest: int) -> S:
    """Copy a command in as iommufd_fops_ioctl does: what this kernel knows nothing of must be zero."""
    size = user.u32(0)
    if size < smallest:
        raise fail(errno.EINVAL)
    known = ctypes.sizeof(kind)
    data = user.read(size)
    if any(data[known:]):
        raise fail(errno.E2BIG)
    return kind.from_buffer_copy(data[:known].ljust(known, b"\0"))


def refuse(bits: int) -> None:
    """What iommufd does not know, it does not support."""
    if bits:
        raise fail(errno.EOPNOTSUPP)


def access_of(flags: int) -> int:
    readable = READ if flags & abi.IOMMU_IOAS_MAP_READABLE else 0
    return readable | (WRITE if flags & abi.IOMMU_IOAS_MAP_WRITEABLE else 0)
