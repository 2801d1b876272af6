"""Give PCI devices to a VFIO driver through driver_override, and back.

Each operation is a list of sysfs writes that is there before the first is made. What a device was before is a Binding;
restore() brings it back from any state in between, so it also ends what a killed process began.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyvfio.errors import DeviceNotBound, InvalidArgument, VfioError
from pyvfio.host.foreseen import require_probe, why_refused
from pyvfio.kernel import Kernel, exists, read_text, write_text
from pyvfio.sysfs import DEVICES, PciDevice, full_address, group_members, pci_device

DRIVERS = "/sys/bus/pci/drivers"
PROBE = "/sys/bus/pci/drivers_probe"

_NO_OVERRIDE = "\n"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a device was before it was bound: enough to give it back. Frozen, and the same after a round trip.

    ids: which device it was, "8086:1521", so that another card in its slot is not taken for it; None: not known.
    """

    address: str
    driver: str | None
    override: str | None
    ids: str | None = field(default=None, compare=False)

    @classmethod
    def from_data(cls, data: object) -> Binding:
        """Raises ValueError for what is no binding."""
        if not isinstance(data, dict) or not isinstance(data.get("address"), str):
            raise ValueError(f"no address in {data!r}")
        more = [data.get(name) for name in ("driver", "override", "ids")]
        if not all(each is None or isinstance(each, str) for each in more):
            raise ValueError(f"no names in {data!r}")
        return cls(full_address(data["address"]), *more)

    def is_of(self, other: Binding) -> bool:
        """Whether both are of the same device, as far as is known: not only of the same slot."""
        return self.address == other.address and (self.ids is None or other.ids in (None, self.ids))


@dataclass(frozen=True, slots=True)
class Write:
    """text, written to the sysfs file at path with one call."""

    path: str
    text: str

    def __str__(self) -> str:
        """As root would write it in a shell."""
        return f"echo {self.text.strip()} > {self.path}".replace("echo  ", "echo ")


def binding(kernel: Kernel, address: str) -> Binding:
    """What a device is now. Raises InvalidArgument, DeviceNotBound."""
    device = pci_device(kernel, address)
    text = read_text(kernel, f"{DEVICES}/{device.address}/driver_override")
    ids = f"{device.vendor_id:04x}:{device.device_id:04x}"
    return Binding(device.address, device.driver, None if text in ("", "(null)") else text, ids)


def bind_writes(now: Binding, driver: str) -> list[Write]:
    """What bind() writes. The override is put back last: later probes shall find the device as it always was."""
    if now.driver == driver:
        return []
    return [_override(now, driver), *_unbind(now), Write(PROBE, now.address), _override(now, now.override)]


def unbind_writes(now: Binding) -> list[Write]:
    """What unbind() writes. The override is cleared first: it would give the device to the same driver again."""
    return [_override(now, None), *_unbind(now), Write(PROBE, now.address)]


def restore_writes(now: Binding, before: Binding) -> list[Write]:
    """What leads from now to before."""
    if now == before:
        return []
    writes = []
    if now.driver != before.driver:
        writes += [_override(now, before.driver), *_unbind(now)]
        writes += [Write(PROBE, now.address)] if before.driver is not None else []
    return [*writes, _override(now, before.override)]


def bind(kernel: Kernel, address: str, driver: str = "vfio-pci") -> Binding:
    """Bind a device to driver, whatever has it now. Returns what restore() needs.

    Verified afterwards; the override is as before then. A failure on the way gives the device back to the driver it
    had. Raises DeviceNotBound if the driver is not loaded or does not take the device.
    """
    now = binding(kernel, address)
    if now.driver == driver:
        return now
    require_probe(kernel, pci_device(kernel, now.address), driver)
    require_driver(kernel, now.address, driver)
    _perform(kernel, now, bind_writes(now, driver), driver)
    return now


def unbind(kernel: Kernel, address: str) -> str | None:
    """Take a device from its driver, clear its override, and let the host choose a driver: its name, None for none.

    A failure on the way gives the device back to the driver it had.
    """
    now = binding(kernel, address)
    _perform(kernel, now, unbind_writes(now))
    return pci_device(kernel, now.address).driver


def restore(kernel: Kernel, before: Binding) -> None:
    """Put a device back as it was, from whatever it is now.

    Raises VfioError if its driver does not take it again, DeviceNotBound if another device has its address now.
    """
    now = binding(kernel, before.address)
    if not before.is_of(now):
        raise DeviceNotBound(
            errno.ENODEV,
            f"restore {before.address}",
            meaning=f"it was {before.ids}, and {now.ids} is there now",
            advice="Nothing was changed",
        )
    for write in restore_writes(now, before):
        _write(kernel, now.address, write, before.driver)


def require_driver(kernel: Kernel, address: str, driver: str) -> None:
    """Raises DeviceNotBound unless driver is loaded."""
    if not exists(kernel, f"{DRIVERS}/{driver}"):
        raise DeviceNotBound(
            errno.ENODEV,
            f"bind {address}",
            meaning=f"no driver {driver} is loaded",
            advice=f"As root: modprobe {driver}",
        )


def group_addresses(kernel: Kernel, address: str) -> list[str]:
    """Every PCI function of the device's IOMMU group that can be bound: bridges stay with their drivers.

    Raises InvalidArgument if the group has none.
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
        try:
            restore(kernel, before)
        except OSError as failure:
            error.add_note(f"Giving it back to {before.driver or 'no driver'} failed too: {failure}")
        raise


def _write(kernel: Kernel, address: str, write: Write, driver: str | None) -> None:
    """One write; the one that binds is looked after: the kernel may say yes and yet not bind."""
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
