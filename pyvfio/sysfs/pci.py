"""PCI devices and IOMMU groups as sysfs shows them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvfio.errors import DeviceNotBound, InvalidArgument
from pyvfio.kernel import Kernel, link_name, read_text, text_or_empty

DEVICES = "/sys/bus/pci/devices"
GROUPS = "/sys/kernel/iommu_groups"

_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_BRIDGE_CLASS = 0x06
# Drivers beside vfio-pci that the core lets stay in a group in use: drivers/vfio/vfio_main.c, vfio_driver_allowed.
_HARMLESS_DRIVERS = ("pci-stub",)


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function. class_code: base class, subclass, interface as 24 bits. group None: no IOMMU behind it."""

    address: str
    vendor_id: int
    device_id: int
    class_code: int
    driver: str | None
    group: int | None
    numa_node: int | None

    @property
    def has_vfio_driver(self) -> bool:
        """vfio-pci, or one of its variants (mlx5_vfio_pci, ...)."""
        return self.driver is not None and "vfio" in self.driver

    @property
    def is_bridge(self) -> bool:
        return self.class_code >> 16 == _BRIDGE_CLASS

    @property
    def blocks_group(self) -> bool:
        """Whether its driver keeps its group from being used."""
        return (
            self.driver is not None
            and not self.has_vfio_driver
            and not self.is_bridge
            and self.driver not in _HARMLESS_DRIVERS
        )


def is_address(text: str) -> bool:
    """Whether it is a PCI address, with or without the domain."""
    return _ADDRESS.fullmatch(text) is not None


def full_address(address: str) -> str:
    """The address as sysfs spells it; the domain may be left out. Raises InvalidArgument."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise InvalidArgument(
            errno.EINVAL,
            f"PCI address {address!r}",
            meaning="not an address",
            advice="Write 0000:03:00.0 or 03:00.0",
        )
    domain, bus, slot, function = match.groups()
    return f"{domain or '0000'}:{bus}:{slot}.{function}".lower()


def pci_device(kernel: Kernel, address: str) -> PciDevice:
    """Raises InvalidArgument for what is no address, DeviceNotBound if there is no such device."""
    address = full_address(address)
    directory = f"{DEVICES}/{address}"
    try:
        vendor, device, class_code = (
            int(read_text(kernel, f"{directory}/{name}"), 16) for name in ("vendor", "device", "class")
        )
    except OSError as error:
        # ENODEV: the attribute was opened, and the device has gone since.
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        raise DeviceNotBound(
            errno.ENODEV,
            f"PCI device {address}",
            meaning="there is no such device",
            advice="pyvfio list shows all",
        ) from error
    group = link_name(kernel, f"{directory}/iommu_group")
    node = int(text_or_empty(kernel, f"{directory}/numa_node") or -1)
    return PciDevice(
        address,
        vendor,
        device,
        class_code,
        link_name(kernel, f"{directory}/driver"),
        None if group is None else int(group),
        node if node >= 0 else None,
    )


def vfio_device(kernel: Kernel, address: str) -> PciDevice:
    """A device that a VFIO driver has. Raises DeviceNotBound with what to do, and what pci_device raises."""
    device = pci_device(kernel, address)
    if device.has_vfio_driver and device.group is not None:
        return device
    missing = "no IOMMU group" if device.group is None else f"driver {device.driver or 'none'}"
    raise DeviceNotBound(
        errno.ENODEV,
        f"open device {address}",
        meaning=f"it has {missing}, so VFIO does not know it",
        advice="Turn the IOMMU on (intel_iommu=on)" if device.group is None else f"pyvfio bind {address}",
    )


def pci_devices(kernel: Kernel) -> list[PciDevice]:
    """Every PCI function of the host, in order of address."""
    try:
        addresses = kernel.listdir(DEVICES)
    except FileNotFoundError:
        return []
    return list(_present(kernel, addresses))


def group_members(kernel: Kernel, number: int) -> list[PciDevice]:
    """The PCI functions of an IOMMU group; empty if there is no such group."""
    try:
        names = kernel.listdir(f"{GROUPS}/{number}/devices")
    except FileNotFoundError:
        return []
    return list(_present(kernel, filter(_ADDRESS.fullmatch, names)))


def blocking_members(kernel: Kernel, number: int) -> list[PciDevice]:
    """The members of a group whose host drivers keep it from being used."""
    return [member for member in group_members(kernel, number) if member.blocks_group]


def is_noiommu(kernel: Kernel, number: int) -> bool:
    """Whether VFIO made the group for a device without an IOMMU: see pyvfio.noiommu.

    Source: the group's name in sysfs; drivers/vfio/group.c, vfio_noiommu_group_alloc.
    """
    return text_or_empty(kernel, f"{GROUPS}/{number}/name") == "vfio-noiommu"


def group_node(kernel: Kernel, number: int) -> str:
    """What is opened for a group: it is there while a VFIO driver has a member."""
    return f"/dev/vfio/{'noiommu-' if is_noiommu(kernel, number) else ''}{number}"


def _present(kernel: Kernel, addresses: Iterable[str]) -> Iterator[PciDevice]:
    """In order of address, without those that have gone since they were listed."""
    for address in sorted(addresses):
        try:
            yield pci_device(kernel, address)
        except DeviceNotBound:
            continue
