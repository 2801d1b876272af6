"""PCI devices and IOMMU groups as sysfs shows them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvfio.errors import DeviceNotBound, InvalidArgument
from pyvfio.kernel import (
    Kernel,
    exists,
    link_name,
    link_number,
    linux_release,
    names_in,
    read_number,
    text_or_empty,
)
from pyvfio.sysfs.iommus import VT_D, iommu_kinds
from pyvfio.texts import lines_of, number_of, shortened, words_of

DEVICES = "/sys/bus/pci/devices"
"""The directory with a directory for each PCI function of the host."""
GROUPS = "/sys/kernel/iommu_groups"
"""The directory with a directory for each IOMMU group."""

MEDIATED_DEVICES = "/sys/bus/mdev/devices"
"""The directory with a link for each mediated device of the host."""

_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
# Bridges to another PCI or CardBus bus: the kernel takes no such class from a function with another header type.
_BUS_BRIDGES = (0x0604, 0x0607)
_BRIDGE_CLASS = 0x06
_HEADER_TYPE = 0x0E
# Drivers that do no DMA of their own, so that the core lets them stay in a group in use: those with driver_managed_dma
# beside VFIO's. Before Linux 5.18 every driver of a bridge was let stay.
_HARMLESS_DRIVERS = ("pci-stub", "pcieport")
_ASKED_OF_BRIDGES_SINCE = (5, 18)
_DIRECT_FOR_ALL_SINCE = (6, 6)
# USB controllers, ISA bridges and displays: before Linux 5.3 what may be relaxed of them had the same name as the rest.
_RELAXABLE_SINCE = (5, 3)
_RELAXED = (0x0C03, 0x0601)
_DISPLAY = 0x03


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A device of an IOMMU group that is on no PCI bus.

    address: its name in sysfs, "fd4a0000.codec". driver: the driver that it is bound to; None for none.
    """

    address: str
    driver: str | None

    @property
    def has_vfio_driver(self) -> bool:
        """Whether it is bound to a VFIO driver."""
        return self.driver is not None and "vfio" in self.driver

    @property
    def blocks_group(self) -> bool:
        """Whether its driver keeps its group from being used through VFIO."""
        return self.driver is not None and not self.has_vfio_driver


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A PCI function.

    address: domain:bus:device.function, "0000:03:00.0". vendor_id, device_id: as in config space. class_code: base
    class, subclass and interface, 24 bits. driver: the driver that it is bound to; None for none. group: the number of
    its IOMMU group; None if there is no IOMMU behind it. numa_node: the node that it is nearest to; None if the host
    does not say. is_bridge: whether there is another bus behind it. Its header type tells that, and not its class: a
    host bridge, an ISA bridge and an NVSwitch have the class of bridges, and the header of devices.
    """

    address: str
    vendor_id: int
    device_id: int
    class_code: int
    driver: str | None
    group: int | None
    numa_node: int | None
    is_bridge: bool = False

    @property
    def has_vfio_driver(self) -> bool:
        """Whether it is bound to vfio-pci or one of its variants, such as mlx5_vfio_pci."""
        return self.driver is not None and "vfio" in self.driver

    @property
    def blocks_group(self) -> bool:
        """Whether its driver keeps its group from being used through VFIO."""
        return self.driver is not None and not self.has_vfio_driver and self.driver not in _HARMLESS_DRIVERS


def is_address(text: str) -> bool:
    """Whether text is a PCI address, with or without the domain."""
    return _ADDRESS.fullmatch(text) is not None


def full_address(address: str) -> str:
    """The address as sysfs spells it: "0000:03:00.0" for "03:00.0". Raises InvalidArgument."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise InvalidArgument(
            errno.EINVAL,
            f"PCI address {shortened(address)}",
            meaning="not an address",
            advice="Write 0000:03:00.0 or 03:00.0",
        )
    domain, bus, slot, function = match.groups()
    return f"{domain or '0000'}:{bus}:{slot}.{function}".lower()


def pci_device(kernel: Kernel, address: str) -> PciDevice:
    """The function at an address.

    Raises InvalidArgument for what is no address, DeviceNotBound if there is no such function, and VfioError (EPROTO)
    if what sysfs says of it is none of what it says.
    """
    address = full_address(address)
    directory = f"{DEVICES}/{address}"
    try:
        vendor, device, class_code = (
            read_number(kernel, f"{directory}/{name}", 16) for name in ("vendor", "device", "class")
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
    node = number_of(text_or_empty(kernel, f"{directory}/numa_node"))
    return PciDevice(
        address,
        vendor,
        device,
        class_code,
        link_name(kernel, f"{directory}/driver"),
        link_number(kernel, f"{directory}/iommu_group"),
        node if node is not None and node >= 0 else None,
        _is_bridge(kernel, directory, class_code),
    )


def _is_bridge(kernel: Kernel, directory: str, class_code: int) -> bool:
    """Whether the function has the header of a bridge, as the kernel or the config space says."""
    # Config space is read only if the class leaves it open: reading it wakes a device that sleeps.
    if class_code >> 8 in _BUS_BRIDGES or exists(kernel, f"{directory}/secondary_bus_number"):
        return True
    if class_code >> 16 != _BRIDGE_CLASS:
        return False
    try:
        fd = kernel.open(f"{directory}/config", os.O_RDONLY)
    except OSError:
        return False
    try:
        header = kernel.read(fd, 64)
    finally:
        kernel.close(fd)
    # All ones is a device that does not answer.
    return len(header) > _HEADER_TYPE and header[_HEADER_TYPE] != 0xFF and header[_HEADER_TYPE] & 0x7F in (1, 2)


def vfio_device(kernel: Kernel, address: str) -> PciDevice:
    """The function at an address, which is bound to a VFIO driver and in an IOMMU group.

    Raises InvalidArgument, and DeviceNotBound that says what to do if it is not.
    """
    device = pci_device(kernel, address)
    if device.has_vfio_driver and device.group is not None:
        return device
    missing = "no IOMMU group" if device.group is None else f"driver {device.driver or 'none'}"
    raise DeviceNotBound(
        errno.ENODEV,
        f"open device {address}",
        meaning=f"it has {missing}, so VFIO does not know it",
        advice="pyvfio doctor says why" if device.group is None else f"pyvfio bind {address}",
    )


def pci_devices(kernel: Kernel) -> list[PciDevice]:
    """Every PCI function of the host, by address."""
    try:
        addresses = kernel.listdir(DEVICES)
    except FileNotFoundError:
        return []
    return list(_present(kernel, addresses))


def group_members(kernel: Kernel, number: int) -> list[PciDevice]:
    """The PCI functions of an IOMMU group, by address; none if there is no such group."""
    try:
        names = kernel.listdir(f"{GROUPS}/{number}/devices")
    except FileNotFoundError:
        return []
    return list(_present(kernel, filter(_ADDRESS.fullmatch, names)))


def other_members(kernel: Kernel, number: int) -> list[GroupMember]:
    """The members of an IOMMU group that are no PCI functions."""
    directory = f"{GROUPS}/{number}/devices"
    names = [name for name in names_in(kernel, directory) if not _ADDRESS.fullmatch(name)]
    return [GroupMember(name, link_name(kernel, f"{directory}/{name}/driver")) for name in sorted(names)]


def blocking_members(kernel: Kernel, number: int) -> list[PciDevice | GroupMember]:
    """The members of a group that keep it from being used through VFIO: PCI functions by address, then the others."""
    members: list[PciDevice | GroupMember] = [*group_members(kernel, number), *other_members(kernel, number)]
    if (0, 0) < linux_release(kernel) < _ASKED_OF_BRIDGES_SINCE:
        members = [member for member in members if not (isinstance(member, PciDevice) and member.is_bridge)]
    return [member for member in members if member.blocks_group]


def direct_regions(kernel: Kernel, number: int) -> list[str]:
    """The addresses, "0x7ba1e000-0x7ba26fff", that firmware wants every domain of a group to map one to one.

    The kernel lets nobody use such a group: RMRRs of Intel's IOMMU and IVMDs of AMD's, if they may not be relaxed.
    Before Linux 6.6 only Intel's driver did so. None if this kernel lets the group be used all the same.
    Source: reserved_regions of the group in sysfs; drivers/iommu/iommu.c, require_direct, before
    drivers/iommu/intel/iommu.c, device_is_rmrr_locked.
    """
    if _lets_direct_pass(kernel, number):
        return []
    lines = map(words_of, lines_of(text_or_empty(kernel, f"{GROUPS}/{number}/reserved_regions")))
    regions = [(number_of(words[0], 16), number_of(words[1], 16)) for words in lines if words[2:] == ["direct"]]
    return [f"{first:#x}-{last:#x}" for first, last in regions if first is not None and last is not None]


def _lets_direct_pass(kernel: Kernel, number: int) -> bool:
    """Whether the kernel is so old that it lets a group be used although a region of it is "direct"."""
    release = linux_release(kernel)
    if release == (0, 0) or release >= _DIRECT_FOR_ALL_SINCE:
        return False
    kinds = iommu_kinds(kernel)
    if kinds and VT_D not in kinds:
        return True
    classes = [member.class_code for member in group_members(kernel, number)]
    return release < _RELAXABLE_SINCE and all(each >> 8 in _RELAXED or each >> 16 == _DISPLAY for each in classes)


def resource_lines(kernel: Kernel, address: str) -> list[tuple[int, int, int] | None]:
    """The first and last address and the flags of each BAR, and of what follows them; None for a line that says none.

    Source: Documentation/PCI/sysfs-pci.rst, "resource"; linux/ioport.h.
    """
    found: list[tuple[int, int, int] | None] = []
    for line in lines_of(text_or_empty(kernel, f"{DEVICES}/{address}/resource")):
        numbers = [number for word in words_of(line) if (number := number_of(word, 16)) is not None]
        found.append((numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None)
    return found


def is_noiommu(kernel: Kernel, number: int) -> bool:
    """Whether VFIO has made the group for a device without an IOMMU: see pyvfio.noiommu.

    Source: the group's name in sysfs; drivers/vfio/group.c, vfio_noiommu_group_alloc.
    """
    if text_or_empty(kernel, f"{GROUPS}/{number}/name") != "vfio-noiommu":
        return False
    # A mediated device's group has the same name: its parent's driver maps for it.
    mediated = names_in(kernel, MEDIATED_DEVICES)
    return not any(name in mediated for name in names_in(kernel, f"{GROUPS}/{number}/devices"))


def group_node(kernel: Kernel, number: int) -> str:
    """The path of a group's node. It is there while a member is bound to a VFIO driver."""
    return f"/dev/vfio/{'noiommu-' if is_noiommu(kernel, number) else ''}{number}"


def _present(kernel: Kernel, addresses: Iterable[str]) -> Iterator[PciDevice]:
    """The functions at addresses, by address, without those that have gone since they were listed."""
    for address in sorted(addresses):
        try:
            yield pci_device(kernel, address)
        except DeviceNotBound:
            continue
