"""Hot reset: of a slot or bus, with everything on it. Source: drivers/vfio/pci/vfio_pci_core.c."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.errors import VfioError

if TYPE_CHECKING:
    from pyvfio.device.device import Device

_HEAD = ctypes.sizeof(vfio.vfio_pci_hot_reset_info)
_ENTRY = ctypes.sizeof(vfio.vfio_pci_dependent_device)
_MOST_FUNCTIONS = 1 << 16


@dataclass(frozen=True, slots=True)
class AffectedDevice:
    """One function that a hot reset resets. address: as in sysfs.

    group: its IOMMU group, where the device was opened through a group; None otherwise. held: whether it is in the
    caller's hands; for devices opened through a group this is whether its group is open in the same container.
    """

    address: str
    group: int | None
    held: bool


def affected_devices(device: Device) -> tuple[AffectedDevice, ...]:
    """Raises VfioError (ENODEV) where neither the slot nor the bus can be reset."""
    flags, entries = _query(device)
    held = {group.number for group in device.group.siblings()} if device.group else set()
    affected = []
    for entry in entries:
        address = f"{entry.segment:04x}:{entry.bus:02x}:{entry.devfn >> 3:02x}.{entry.devfn & 7}"
        if flags & vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID:
            # Positive ids are devices of the same iommufd, 0 those whose reset that iommufd covers.
            affected.append(AffectedDevice(address, None, entry.devid != vfio.VFIO_PCI_DEVID_NOT_OWNED))
        else:
            affected.append(AffectedDevice(address, entry.group_id, entry.group_id in held))
    return tuple(affected)


def hot_reset(device: Device) -> None:
    """Raises VfioError (EPERM), naming what is in the way, before anything is reset."""
    affected = affected_devices(device)
    operation = f"hot reset of {device.address}"
    if missing := [other for other in affected if not other.held]:
        named = ", ".join(
            other.address if other.group is None else f"{other.address} (group {other.group})" for other in missing
        )
        raise VfioError(
            errno.EPERM,
            operation,
            meaning=f"it would also reset {named}, which is not open here",
            advice="Open it in the same container, or attach it to the same iommufd: container.open_group(NUMBER)",
        )
    fds: list[int] = []
    if device.group is not None:
        groups = {other.group for other in affected}
        fds = [group.fd for group in device.group.siblings() if group.number in groups]
    head = vfio.vfio_pci_hot_reset(argsz=ctypes.sizeof(vfio.vfio_pci_hot_reset) + 4 * len(fds), count=len(fds))
    buffer = ctypes.create_string_buffer(bytes(head) + bytes((ctypes.c_int32 * len(fds))(*fds)), head.argsz)
    try:
        device.kernel.ioctl(device.fd, vfio.VFIO_DEVICE_PCI_HOT_RESET, buffer)
    except OSError as error:
        meaning, advice = {
            errno.EINVAL: ("not every function it would reset is in a VFIO driver's hands", ""),
            errno.ENOTTY: ("the port above has not brought the device back in time", "Look at the kernel's log"),
        }.get(error.errno or 0, ("", ""))
        raise VfioError(error.errno or errno.EIO, operation, meaning=meaning, advice=advice) from error


def _query(device: Device) -> tuple[int, list[vfio.vfio_pci_dependent_device]]:
    """The flags and the entries, asking again with the room the kernel says it needs."""
    count = 0
    while count <= _MOST_FUNCTIONS:
        buffer = ctypes.create_string_buffer(_HEAD + _ENTRY * count)
        info = vfio.vfio_pci_hot_reset_info.from_buffer(buffer)
        info.argsz = len(buffer)
        try:
            device.kernel.ioctl(device.fd, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer)
        except OSError as error:
            if error.errno == errno.ENOSPC and info.count > count:
                count = info.count
                continue
            meaning = "neither its slot nor its bus can be reset" if error.errno == errno.ENODEV else ""
            raise VfioError(error.errno or errno.EIO, f"hot reset of {device.address}", meaning=meaning) from error
        entries = vfio.vfio_pci_dependent_device * info.count
        return info.flags, list(entries.from_buffer_copy(buffer, _HEAD))
    raise VfioError(errno.E2BIG, f"hot reset of {device.address}", {"count": count}, "more functions than can be")
