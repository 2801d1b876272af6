"""Hot reset: the reset of a slot or bus with everything on it. Source: drivers/vfio/pci/vfio_pci_core.c."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.device.open_device import OpenDevice
from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel
from pyvfio.sysfs import pci_device

_HEAD = ctypes.sizeof(vfio.vfio_pci_hot_reset_info)
_ENTRY = ctypes.sizeof(vfio.vfio_pci_dependent_device)
_MOST_FUNCTIONS = 1 << 16


@dataclass(frozen=True, slots=True)
class AffectedDevice:
    """A function that a hot reset resets.

    address: its name in sysfs. group: the number of its IOMMU group; None if the device was not opened through a group.
    held: whether the caller holds it: its group is open in the same container, or the iommufd of the device that was
    asked covers it.
    """

    address: str
    group: int | None
    held: bool

    def is_of(self, device: OpenDevice) -> bool:
        """Whether device is this function."""
        return device.address == self.address


def affected_devices(device: OpenDevice) -> tuple[AffectedDevice, ...]:
    """Every function that a hot reset of the device resets.

    Raises VfioError (ENODEV) if neither the slot nor the bus can be reset. Source: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.
    """
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


def hot_reset(device: OpenDevice) -> tuple[AffectedDevice, ...]:
    """Reset the slot or bus of the device; return what was reset.

    Raises VfioError (EPERM) that names what is in the way, if the caller does not hold all of it; nothing is reset
    then. Source: VFIO_DEVICE_PCI_HOT_RESET.
    """
    affected = affected_devices(device)
    operation = f"hot reset of {device.address}"
    if missing := [other for other in affected if not other.held]:
        named = ", ".join(
            other.address if other.group is None else f"{other.address} (group {other.group})" for other in missing
        )
        meaning = f"it would also reset {named}, which is not open here"
        raise VfioError(errno.EPERM, operation, meaning=meaning, advice=_way_to_hold(device, missing))
    groups = {other.group for other in affected}
    members = () if device.group is None else device.group.siblings()
    with ExitStack() as uses:
        fd = uses.enter_context(device.descriptor.in_use())
        held = [uses.enter_context(group.descriptor.in_use()) for group in members if group.number in groups]
        head = vfio.vfio_pci_hot_reset(argsz=ctypes.sizeof(vfio.vfio_pci_hot_reset) + 4 * len(held), count=len(held))
        buffer = ctypes.create_string_buffer(bytes(head) + bytes((ctypes.c_int32 * len(held))(*held)), head.argsz)
        try:
            device.kernel.ioctl(fd, vfio.VFIO_DEVICE_PCI_HOT_RESET, buffer)
        except OSError as error:
            meaning, advice = {
                errno.EINVAL: _not_all_bound(device.kernel, affected),
                errno.ENOTTY: ("the port above has not brought the device back in time", "Look at the kernel's log"),
            }.get(error.errno or 0, ("", ""))
            raise VfioError(error.errno or errno.EIO, operation, meaning=meaning, advice=advice) from error
    return affected


def _not_all_bound(kernel: Kernel, affected: Sequence[AffectedDevice]) -> tuple[str, str]:
    """Why a hot reset is refused though all groups are held, and what helps: each function needs a VFIO driver."""
    unbound = [other for other in affected if _host_driver(kernel, other.address) is not None]
    named = ", ".join(f"{other.address} has {_host_driver(kernel, other.address) or 'no driver'}" for other in unbound)
    meaning = "not every function it would reset is in a VFIO driver's hands"
    advice = "; then ".join(f"pyvfio bind {other.address}" for other in unbound)
    return (f"{meaning}: {named}", advice) if named else (meaning, "")


def _way_to_hold(device: OpenDevice, missing: Sequence[AffectedDevice]) -> str:
    """What makes the functions that are missing held by whoever holds the device."""
    steps = []
    for other in missing:
        driver = _host_driver(device.kernel, other.address)
        if driver is not None:
            steps.append(f"{other.address} has {driver or 'no driver'}: pyvfio bind {other.address}")
    if device.group is None:
        steps += [f"ioas.open_device({other.address!r}), with the same iommufd" for other in missing]
    else:
        groups = sorted({other.group for other in missing if other.group is not None})
        steps += [f"container.open_group({number}), of the same container" for number in groups]
    return "; then ".join(steps)


def _host_driver(kernel: Kernel, address: str) -> str | None:
    """The driver of a function, "" for none; None if a VFIO driver has it. Explaining a failure must not become one."""
    try:
        found = pci_device(kernel, address)
    except OSError:
        return None
    return None if found.has_vfio_driver else found.driver or ""


def _query(device: OpenDevice) -> tuple[int, list[vfio.vfio_pci_dependent_device]]:
    """The flags and the entries. The kernel is asked again with the room that it says it needs."""
    count = 0
    while count <= _MOST_FUNCTIONS:
        buffer = ctypes.create_string_buffer(_HEAD + _ENTRY * count)
        info = vfio.vfio_pci_hot_reset_info.from_buffer(buffer)
        info.argsz = len(buffer)
        with device.descriptor.in_use() as fd:
            try:
                device.kernel.ioctl(fd, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer)
            except OSError as error:
                if error.errno == errno.ENOSPC and info.count > count:
                    count = info.count
                    continue
                meaning = "neither its slot nor its bus can be reset" if error.errno == errno.ENODEV else ""
                raise VfioError(error.errno or errno.EIO, f"hot reset of {device.address}", meaning=meaning) from error
        entries = vfio.vfio_pci_dependent_device * info.count
        return info.flags, list(entries.from_buffer_copy(buffer, _HEAD))
    raise VfioError(errno.E2BIG, f"hot reset of {device.address}", {"count": count}, "more functions than can be")
