"""Hot reset of a simulated bus. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_ioctl_pci_hot_reset."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.sim.process.user import UserMemory, fail
from pyvfio.sim.sysfs import VFIO_DRIVER

if TYPE_CHECKING:
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.sysfs import PciFunction
    from pyvfio.sim.vfio.device import DeviceState

_INFO = struct.Struct("<III")
_ENTRY = struct.Struct("<IHBB")


def hot_reset_info(kernel: SimKernel, device: DeviceState, user: UserMemory) -> int:
    argsz, _, _ = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size:
        raise fail(errno.EINVAL)
    affected = _affected(kernel, device)
    is_cdev = device.iommufd is not None
    owners = [_devid(kernel, device, function) if is_cdev else function.group for function in affected]
    flags = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID if is_cdev else 0
    if is_cdev and vfio.VFIO_PCI_DEVID_NOT_OWNED not in owners:
        flags |= vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    has_room = argsz >= _INFO.size + _ENTRY.size * len(affected)
    # The count is told in either case.
    user.write(_INFO.pack(argsz, flags, len(affected)))
    if not has_room:
        raise fail(errno.ENOSPC)
    for number, (function, owner) in enumerate(zip(affected, owners, strict=True)):
        domain, bus, place = function.address.split(":")
        slot, number_in_slot = (int(part, 16) for part in place.split("."))
        entry = _ENTRY.pack(owner, int(domain, 16), int(bus, 16), slot << 3 | number_in_slot)
        user.write(entry, _INFO.size + _ENTRY.size * number)
    return 0


def hot_reset(kernel: SimKernel, device: DeviceState, user: UserMemory) -> int:
    argsz, flags, count = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size or flags:
        raise fail(errno.EINVAL)
    affected = _affected(kernel, device)
    if device.iommufd is not None:
        # The iommufd says what is held: no descriptors.
        if count or any(_devid(kernel, device, other) == vfio.VFIO_PCI_DEVID_NOT_OWNED for other in affected):
            raise fail(errno.EINVAL)
        return _reset(kernel, affected)
    if not 0 < count <= len(affected):
        raise fail(errno.EINVAL)
    groups = [user.process.group_of(fd) for fd in struct.unpack(f"<{count}i", user.read(4 * count, _INFO.size))]
    numbers = {group.number for group in groups}
    if any(function.group not in numbers for function in affected):
        raise fail(errno.EINVAL)
    return _reset(kernel, affected)


def _devid(kernel: SimKernel, device: DeviceState, function: PciFunction) -> int:
    """Of a function beside a device of an iommufd. Source: drivers/vfio/iommufd.c, vfio_iommufd_get_dev_id."""
    ownership = kernel.ownership
    opened = ownership.opened_device(function.address)
    if opened is not None and opened.iommufd is device.iommufd:
        return opened.iommufd_id
    others = [other for other in kernel.functions.values() if other.group == function.group]
    in_group = [found for other in others if (found := ownership.opened_device(other.address))]
    if function.driver == VFIO_DRIVER and any(other.iommufd is device.iommufd for other in in_group):
        return vfio.VFIO_PCI_DEVID_OWNED
    return vfio.VFIO_PCI_DEVID_NOT_OWNED


def _reset(kernel: SimKernel, affected: list[PciFunction]) -> int:
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
