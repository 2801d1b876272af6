"""Give a PCI device to a VFIO driver through driver_override, and back."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pyvfio.errors import DeviceNotBound, VfioError
from pyvfio.files import exists, read_text, write_text
from pyvfio.host.pci import DEVICES, GROUPS, PciDevice, pci_device
from pyvfio.kernel import Kernel

DRIVERS = "/sys/bus/pci/drivers"
PROBE = "/sys/bus/pci/drivers_probe"

_NO_OVERRIDE = "\n"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a device was before it was bound: enough to give it back."""

    address: str
    driver: str | None
    override: str | None


def bind(kernel: Kernel, address: str, driver: str = "vfio-pci") -> Binding:
    """Bind a device to driver, whatever has it now. Returns what restore() needs.

    Verified afterwards. A failure on the way gives the device back to the driver it had.
    Raises DeviceNotBound if the driver is not loaded or does not take the device.
    """
    device = pci_device(kernel, address)
    before = Binding(device.address, device.driver, _override(kernel, device.address))
    if device.driver == driver:
        return before
    if not exists(kernel, f"{DRIVERS}/{driver}"):
        raise DeviceNotBound(
            errno.ENODEV,
            f"bind {device.address}",
            meaning=f"no driver {driver} is loaded",
            advice=f"As root: modprobe {driver}",
        )
    try:
        _set_override(kernel, device.address, driver)
        _unbind(kernel, device)
        _probe(kernel, device.address, driver)
    except OSError as error:
        try:
            restore(kernel, before)
        except OSError as failure:
            error.add_note(f"Giving it back to {before.driver or 'no driver'} failed too: {failure}")
        raise
    return before


def restore(kernel: Kernel, before: Binding) -> None:
    """Put a device back as bind() found it. Raises VfioError if its driver does not take it again."""
    device = pci_device(kernel, before.address)
    if device.driver != before.driver:
        _set_override(kernel, before.address, before.driver)
        _unbind(kernel, device)
        if before.driver is not None:
            _probe(kernel, before.address, before.driver)
    _set_override(kernel, before.address, before.override)


def unbind(kernel: Kernel, address: str) -> str | None:
    """Take a device from its driver, clear its override, and let the host choose a driver: its name."""
    device = pci_device(kernel, address)
    _unbind(kernel, device)
    _set_override(kernel, device.address, None)
    write_text(kernel, PROBE, device.address)
    return pci_device(kernel, device.address).driver


def _probe(kernel: Kernel, address: str, driver: str) -> None:
    try:
        write_text(kernel, PROBE, address)
    except OSError as error:
        raise _failed(error, f"probe {address}") from error
    bound = pci_device(kernel, address)
    if bound.driver != driver:
        meaning = f"{driver} did not take it: its driver is {bound.driver or 'none'}"
        advice = "The kernel log says why"
        if bound.group is None and "vfio" in driver:
            meaning += ", and there is no IOMMU behind it"
            advice = "Turn the IOMMU on (intel_iommu=on), in firmware too"
        raise DeviceNotBound(errno.ENODEV, f"bind {address}", meaning=meaning, advice=advice)


def _unbind(kernel: Kernel, device: PciDevice) -> None:
    if device.driver is None:
        return
    try:
        write_text(kernel, f"{DRIVERS}/{device.driver}/unbind", device.address)
    except OSError as error:
        raise _failed(error, f"unbind {device.address} from {device.driver}") from error


def _override(kernel: Kernel, address: str) -> str | None:
    text = read_text(kernel, f"{DEVICES}/{address}/driver_override")
    return None if text in ("", "(null)") else text


def _set_override(kernel: Kernel, address: str, driver: str | None) -> None:
    try:
        write_text(kernel, f"{DEVICES}/{address}/driver_override", driver or _NO_OVERRIDE)
    except OSError as error:
        raise _failed(error, f"set the driver override of {address}") from error


def _failed(error: OSError, operation: str) -> VfioError:
    code = error.errno or errno.EIO
    return VfioError(code, operation, advice="Only root may" if code in (errno.EACCES, errno.EPERM) else "")


def group_addresses(kernel: Kernel, address: str) -> list[str]:
    """Every PCI function of the device's IOMMU group that can be bound: bridges stay with their drivers."""
    device = pci_device(kernel, address)
    if device.group is None:
        return [device.address]
    members = (pci_device(kernel, name) for name in kernel.listdir(f"{GROUPS}/{device.group}/devices"))
    return sorted(member.address for member in members if not member.is_bridge)
