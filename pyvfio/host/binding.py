"""Bind PCI devices to a VFIO driver through driver_override, and give them back.

Each operation is a list of writes to sysfs, complete before the first is made. A Binding says what a device was before;
restore() leads back to it from any state in between, also after a process was killed in the middle.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pyvfio.errors import DeviceNotBound, InvalidArgument, VfioError
from pyvfio.host.foreseen import require_probe, why_refused
from pyvfio.kernel import Kernel, exists, read_text, write_text
from pyvfio.sysfs import DEVICES, PciDevice, full_address, group_members, pci_device
from pyvfio.texts import shortened

DRIVERS = "/sys/bus/pci/drivers"
"""The directory with a directory for each PCI driver that is loaded."""
PROBE = "/sys/bus/pci/drivers_probe"
"""An address that is written to this file has the kernel choose a driver for the device."""

_NO_OVERRIDE = "\n"


@dataclass(frozen=True, slots=True)
class Binding:
    """The state of a device that binding changes: enough to give the device back.

    address: the device. driver: the driver that it is bound to; None for none. override: the driver that its
    driver_override names; None for none. ids: what the device is, "8086:1521", so that another card in its slot is not
    taken for it; None if it is not known. Bindings that differ only in ids are equal.
    """

    address: str
    driver: str | None
    override: str | None
    ids: str | None = field(default=None, compare=False)

    @classmethod
    def from_data(cls, data: object) -> Binding:
        """The binding that asdict() made data of. Raises ValueError for data that is no binding."""
        if not isinstance(data, dict) or not isinstance(data.get("address"), str):
            raise ValueError(f"no address in {shortened(data)}")
        more = [data.get(name) for name in ("driver", "override", "ids")]
        if not all(each is None or isinstance(each, str) for each in more):
            raise ValueError(f"no names in {shortened(data)}")
        return cls(full_address(data["address"]), *more)

    def is_of(self, other: Binding) -> bool:
        """Whether both are of the same device, not only of the same slot. What is not known counts as equal."""
        return self.address == other.address and (self.ids is None or other.ids in (None, self.ids))


@dataclass(frozen=True, slots=True)
class Write:
    """One write of text to the sysfs file at path."""

    path: str
    text: str

    def __str__(self) -> str:
        """The command that root would type in a shell."""
        return f"echo {self.text.strip()} > {self.path}".replace("echo  ", "echo ")


def binding(kernel: Kernel, address: str) -> Binding:
    """The state of the device at an address. Raises InvalidArgument, DeviceNotBound if there is no such device."""
    device = pci_device(kernel, address)
    try:
        text = read_text(kernel, f"{DEVICES}/{device.address}/driver_override")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        raise DeviceNotBound(errno.ENODEV, f"PCI device {device.address}", meaning="it has gone") from error
    ids = f"{device.vendor_id:04x}:{device.device_id:04x}"
    return Binding(device.address, device.driver, None if text in ("", "(null)") else text, ids)


def bind_writes(now: Binding, driver: str) -> list[Write]:
    """The writes of bind(). The override is put back last, so that later probes find the device as it was."""
    if now.driver == driver:
        return []
    return [_override(now, driver), *_unbind(now), Write(PROBE, now.address), _override(now, now.override)]


def unbind_writes(now: Binding) -> list[Write]:
    """The writes of unbind(). The override is cleared first: it would give the device to the same driver again."""
    return [_override(now, None), *_unbind(now), Write(PROBE, now.address)]


def restore_writes(now: Binding, before: Binding) -> list[Write]:
    """The writes that lead from now to before."""
    if now == before:
        return []
    writes = []
    if now.driver != before.driver:
        writes += [_override(now, before.driver), *_unbind(now)]
        writes += [Write(PROBE, now.address)] if before.driver is not None else []
    return [*writes, _override(now, before.override)]


def bind(kernel: Kernel, address: str, driver: str = "vfio-pci") -> Binding:
    """Bind a device to driver, whichever driver has it now; return what restore() needs.

    Afterwards the driver is verified, and the override is as it was. A failure gives the device back to the driver that
    it had. Raises InvalidArgument, DeviceNotBound if the driver is not loaded or does not take the device, VfioError.
    """
    now = binding(kernel, address)
    if now.driver == driver:
        return now
    require_probe(kernel, pci_device(kernel, now.address), driver)
    require_driver(kernel, now.address, driver)
    _perform(kernel, now, bind_writes(now, driver), driver)
    return now


def unbind(kernel: Kernel, address: str) -> str | None:
    """Take a device from its driver, clear its override, and have the host choose a driver; return that driver's name,
    or None if no driver takes it.

    A failure gives the device back to the driver that it had. Raises InvalidArgument, DeviceNotBound, VfioError.
    """
    now = binding(kernel, address)
    _perform(kernel, now, unbind_writes(now))
    return pci_device(kernel, now.address).driver


def restore(kernel: Kernel, before: Binding) -> None:
    """Put a device back as it was, whatever it is now. A failure leaves it as it is now.

    Raises DeviceNotBound if the driver does not take it again, or if the device is gone or another one has its address;
    VfioError if a write fails.
    """
    now = binding(kernel, before.address)
    if not before.is_of(now):
        raise DeviceNotBound(
            errno.ENODEV,
            f"restore {before.address}",
            meaning=f"it was {before.ids}, and {now.ids} is there now",
            advice="Nothing was changed",
        )
    try:
        _lead_to(kernel, before)
    except OSError as error:
        _lead_back(kernel, now, error)
        raise


def require_driver(kernel: Kernel, address: str, driver: str) -> None:
    """Raise DeviceNotBound unless driver is loaded. address: the device, for the message."""
    if not exists(kernel, f"{DRIVERS}/{driver}"):
        raise DeviceNotBound(
            errno.ENODEV,
            f"bind {address}",
            meaning=f"no driver {driver} is loaded",
            advice=f"As root: modprobe {driver}",
        )


def group_addresses(kernel: Kernel, address: str) -> list[str]:
    """The addresses of every PCI function of the device's IOMMU group but bridges, which stay with their drivers.

    The device alone if it has no group. Raises InvalidArgument, also for a group of bridges only, DeviceNotBound.
    """
    device = pci_device(kernel, address)
    if device.group is None:
        return [device.address]
    members = group_members(kernel, device.group)
    if all(member.is_bridge for member in members):
        raise InvalidArgument(
            errno.EINVAL,
            f"bind --group {device.address}",
            meaning=f"nothing of group {device.group} can be bound: "
            + ", ".join(f"{member.address} is a bridge" for member in members),
            advice="Bind the devices behind it, which are in groups of their own",
        )
    return sorted(member.address for member in members if not member.is_bridge)


def _perform(kernel: Kernel, before: Binding, writes: Sequence[Write], driver: str | None = None) -> None:
    try:
        for write in writes:
            _write(kernel, before.address, write, driver)
    except OSError as error:
        _lead_back(kernel, before, error)
        raise


def _lead_to(kernel: Kernel, before: Binding) -> None:
    """Make the writes that lead to before from what is now."""
    now = binding(kernel, before.address)
    for write in restore_writes(now, before):
        _write(kernel, now.address, write, before.driver)


def _lead_back(kernel: Kernel, before: Binding, error: OSError) -> None:
    """Undo a change that error has ended, as far as that can be; a note of the error says what could not be."""
    try:
        _lead_to(kernel, before)
    except OSError as failure:
        error.add_note(f"Giving it back to {before.driver or 'no driver'} failed too: {failure}")
        # At least no later probe is told of a driver that nobody wants.
        with suppress(OSError):
            if binding(kernel, before.address).override != before.override:
                _write(kernel, before.address, _override(before, before.override), None)


def _write(kernel: Kernel, address: str, write: Write, driver: str | None) -> None:
    """Make one write. The one that binds is verified: the kernel reports success even if no driver took the device."""
    try:
        write_text(kernel, write.path, write.text)
    except OSError as error:
        code = error.errno or errno.EIO
        advice = "Run it as root" if code in (errno.EACCES, errno.EPERM) else ""
        raise VfioError(code, f"bind {address}: {write}", advice=advice) from error
    if write.path == PROBE and driver is not None:
        _verify(kernel, pci_device(kernel, address), driver)


def _verify(kernel: Kernel, device: PciDevice, driver: str) -> None:
    if device.driver == driver:
        return
    cause, advice = why_refused(kernel, device, driver)
    meaning = f"{driver} did not take it: " + (cause or f"its driver is {device.driver or 'none'}")
    raise DeviceNotBound(errno.ENODEV, f"bind {device.address}", meaning=meaning, advice=advice)


def _override(now: Binding, driver: str | None) -> Write:
    return Write(f"{DEVICES}/{now.address}/driver_override", driver or _NO_OVERRIDE)


def _unbind(now: Binding) -> list[Write]:
    return [] if now.driver is None else [Write(f"{DRIVERS}/{now.driver}/unbind", now.address)]
