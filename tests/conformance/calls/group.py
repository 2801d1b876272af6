"""Calls on a group."""

from __future__ import annotations

import ctypes
import os

from pyvfio.abi import vfio
from tests.conformance.bench import Bench
from tests.conformance.machine import Edu
from tests.conformance.step import Reply, call


@call
def open_group(bench: Bench, *, device: str = "0", name: str = "group") -> Reply:
    """device: whose group: see Machine.edus."""
    prefix = "noiommu-" if bench.machine.iommu == "none" and device != "mdev" else ""
    return bench.open(name, lambda: bench.kernel.open(f"/dev/vfio/{prefix}{find(bench, device).group}", os.O_RDWR))


@call
def get_status(bench: Bench, *, argsz: int = 8, reach: int | None = None, group: str = "group") -> Reply:
    argument = vfio.vfio_group_status(argsz=argsz, flags=0xFF)
    return bench.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, argument, reach=reach)


@call
def set_container(
    bench: Bench, *, container: str | int = "container", reach: int | None = None, group: str = "group"
) -> Reply:
    """container: the name of a descriptor of any kind, or a number that is none."""
    fd = bench.fds[container] if isinstance(container, str) else container
    pointer = bench.argument(bytes(ctypes.c_int32(fd)), reach)
    return bench.attempt(lambda: bench.kernel.ioctl(bench.fds[group], vfio.VFIO_GROUP_SET_CONTAINER, pointer))


@call
def unset_container(bench: Bench, *, group: str = "group") -> Reply:
    return bench.ioctl(group, vfio.VFIO_GROUP_UNSET_CONTAINER)


@call
def get_device_fd(
    bench: Bench,
    *,
    device: str = "0",
    text: str | None = None,
    suffix: str = "",
    reach: int | None = None,
    group: str = "group",
    name: str = "device",
) -> Reply:
    """text: instead of the device's address; suffix: what follows it."""
    spelled = (text if text is not None else find(bench, device).address + suffix).encode() + b"\0"
    pointer = bench.argument(spelled, reach)
    return bench.open(name, lambda: bench.kernel.ioctl(bench.fds[group], vfio.VFIO_GROUP_GET_DEVICE_FD, pointer))


@call
def unknown_group_ioctl(bench: Bench, *, number: int, group: str = "group") -> Reply:
    """number: what is added to VFIO_BASE."""
    return bench.ioctl(group, vfio.VFIO_GET_API_VERSION + number)


def find(bench: Bench, device: str) -> Edu:
    return bench.machine.edus[device]
