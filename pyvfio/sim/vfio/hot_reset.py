"""Hot reset of a simulated bus. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_ioctl_pci_hot_reset."""

from __future__ import annotations

import errno
import struct

from pyvfio.abi import vfio
from pyvfio.sim.devices import VFIO_DRIVER, PciFunction
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, Process, UserMemory, fail
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.ownership import Ownership

_INFO = struct.Struct("<III")
_ENTRY = struct.Struct("<IHBB")


def hot_reset_info(machine: Machine, ownership: Ownership, device: DeviceState, user: UserMemory) -> int:
    """Tell the program which functions a reset of the device's bus would reset, and whether it has them."""
    argsz, _, _ = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size:
        raise fail(errno.EINVAL)
    affected = _affected(machine, device)
    is_cdev = device.iommufd is not None
    owners = [_devid(machine, ownership, device, function) if is_cdev else function.group for function in affected]
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


def hot_reset(machine: Machine, ownership: Ownership, device: DeviceState, user: UserMemory) -> int:
    """Reset the device's bus, if the program has all functions on it: by descriptors of their groups, or an iommufd."""
    argsz, flags, count = _INFO.unpack(user.read(_INFO.size))
    if argsz < _INFO.size or flags:
        raise fail(errno.EINVAL)
    affected = _affected(machine, device)
    if device.iommufd is not None:
        # The iommufd says what is held: no descriptors.
        owners = [_devid(machine, ownership, device, function) for function in affected]
        if count or vfio.VFIO_PCI_DEVID_NOT_OWNED in owners or not _all_in_vfio(affected):
            raise fail(errno.EINVAL)
        return _reset(ownership, affected)
    if not 0 < count <= len(affected):
        raise fail(errno.EINVAL)
    fds = struct.unpack(f"<{count}i", user.read(4 * count, _INFO.size))
    groups = {_group_of(ownership, user.process, fd) for fd in fds}
    if any(function.group not in groups for function in affected) or not _all_in_vfio(affected):
        raise fail(errno.EINVAL)
    return _reset(ownership, affected)


def _group_of(ownership: Ownership, process: Process, fd: int) -> int:
    """The number of the group that a descriptor is of. Raises OSError: EBADF, EINVAL if it is no group's."""
    file = process.passed_file(fd, File)
    number = None if file is None else ownership.group_of(file)
    if number is None:
        raise fail(errno.EINVAL)
    return number


def _devid(machine: Machine, ownership: Ownership, device: DeviceState, function: PciFunction) -> int:
    """What an iommufd that has a device says of a function beside it: its number there, if it has that too.

    Source: drivers/vfio/iommufd.c, vfio_iommufd_get_dev_id.
    """
    opened = ownership.opened_device(function.address)
    if opened is not None and opened.bound is not None and opened.iommufd is device.iommufd:
        return opened.bound.id
    others = [other for other in machine.functions.values() if other.group == function.group]
    in_group = [found for other in others if (found := ownership.opened_device(other.address))]
    if function.driver == VFIO_DRIVER and any(other.iommufd is device.iommufd for other in in_group):
        return vfio.VFIO_PCI_DEVID_OWNED
    return vfio.VFIO_PCI_DEVID_NOT_OWNED


def _reset(ownership: Ownership, affected: list[PciFunction]) -> int:
    for function in affected:
        if opened := ownership.opened_device(function.address):
            opened.reset()
    return 0


def _all_in_vfio(affected: list[PciFunction]) -> bool:
    """Whether a VFIO driver has each, which says that it is out of use. Source: vfio_pci_dev_set_resettable."""
    return all(function.driver == VFIO_DRIVER for function in affected)


def _affected(machine: Machine, device: DeviceState) -> list[PciFunction]:
    """Every function on the device's bus. Raises OSError(ENODEV) for the root bus, which nothing resets."""
    bus = device.address.rpartition(":")[0]
    if bus.endswith(":00"):
        raise fail(errno.ENODEV)
    return [function for address, function in sorted(machine.functions.items()) if address.startswith(f"{bus}:")]
