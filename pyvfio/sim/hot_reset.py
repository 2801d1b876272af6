"""Hot reset of a simulated bus. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_ioctl_pci_hot_reset."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio.sim.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.device import DeviceState
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.pci import PciFunction

_INFO = struct.Struct("<III")
_ENTRY = struct.Struct("<IHBB")


def hot_reset_info(kernel: SimKernel, device: DeviceState, user: UserMemory) -> int:
    argsz, _, _ = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size:
        raise fail(errno.EINVAL)
    affected = _affected(kernel, device)
    has_room = argsz >= _INFO.size + _ENTRY.size * len(affected)
    # The count is told in either case.
    user.write(_INFO.pack(argsz, 0, len(affected)))
    if not has_room:
        raise fail(errno.ENOSPC)
    for number, function in enumerate(affected):
        domain, bus, place = function.address.split(":")
        slot, number_in_slot = (int(part, 16) for part in place.split("."))
        entry = _ENTRY.pack(function.group, int(domain, 16), int(bus, 16), slot << 3 | number_in_slot)
        user.write(entry, _INFO.size + _ENTRY.size * number)
    return 0


def hot_reset(kernel: SimKernel, device: DeviceState, user: UserMemory) -> int:
    argsz, flags, count = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size or flags:
        raise fail(errno.EINVAL)
    affected = _affected(kernel, device)
    if not 0 < count <= len(affected):
        raise fail(errno.EINVAL)
    groups = [kernel.group_of(fd) for fd in struct.unpack(f"<{count}i", user.read(4 * count, _INFO.size))]
    numbers = {group.number for group in groups}
    if any(function.group not in numbers for function in affected):
        raise fail(errno.EINVAL)
    for function in affected:
        if opened := kernel.ownership.opened_device(function.address):
            opened.reset()
    return 0


def _affected(kernel: SimKernel, device: DeviceState) -> list[PciFunction]:
    """Every function on the bus. Nothing resets the root bus: ENODEV."""
    bus = device.address.rpartition(":")[0]
    if bus.endswith(":00"):
        raise fail(errno.ENODEV)
    return [function for address, function in sorted(kernel.functions.items()) if address.startswith(f"{bus}:")]
