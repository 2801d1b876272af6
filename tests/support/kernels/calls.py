"""Which ioctls a test makes on the real kernel, by name."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from pyvfio.abi import vfio
from pyvfio.abi.names import FdKind, ioctl_name
from pyvfio.kernel import IoctlArgument, LinuxKernel

_KINDS = {
    "/dev/vfio/vfio": FdKind.CONTAINER,
    "/dev/iommu": FdKind.IOMMUFD,
    "anon_inode:[vfio-device]": FdKind.DEVICE,
    "anon_inode:mtty_mig": FdKind.MIGRATION_DATA,
}
_FEATURES = {
    value: name
    for name, value in vars(vfio).items()
    if name.startswith("VFIO_DEVICE_FEATURE_")
    and name.removeprefix("VFIO_DEVICE_FEATURE_") not in ("MASK", "GET", "SET", "PROBE", "CLEAR_MASTER", "SET_MASTER")
}


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The names of the ioctls that are made meanwhile, and of the features that are got or set by them."""
    names: set[str] = set()
    ioctl = LinuxKernel.ioctl

    def record(kernel: LinuxKernel, fd: int, request: int, argument: IoctlArgument = 0, /) -> int:
        result = ioctl(kernel, fd, request, argument)
        names.add(name := ioctl_name(_kind(fd), request))
        if name == "VFIO_DEVICE_FEATURE" and not isinstance(argument, int):
            flags = int.from_bytes(ctypes.string_at(ctypes.addressof(argument), 8)[4:], "little")
            if not flags & vfio.VFIO_DEVICE_FEATURE_PROBE:
                names.add(_FEATURES.get(flags & vfio.VFIO_DEVICE_FEATURE_MASK, ""))
        return result

    with mock.patch.object(LinuxKernel, "ioctl", record):
        yield names


def _kind(fd: int) -> FdKind:
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path.startswith("/dev/vfio/devices/"):
        return FdKind.DEVICE
    return _KINDS.get(path, FdKind.GROUP)
