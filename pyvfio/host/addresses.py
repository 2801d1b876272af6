"""Which addresses a device can be given for its DMA, as sysfs tells before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyvfio.kernel import Kernel, link_name, names_in, text_or_empty
from pyvfio.sysfs import DEVICES, GROUPS, group_members, is_noiommu, pci_devices
from pyvfio.texts import lines_of

_UNITS = "/sys/class/iommu"


@dataclass(frozen=True, slots=True, order=True)
class ReservedRegion:
    """Addresses that must not be mapped.

    first, last: the first and the last of them. kind: the kernel's word for the reason: "msi", "reserved" or "direct".
    """

    first: int
    last: int
    kind: str

    def __str__(self) -> str:
        return f"{self.first:#x}-{self.last:#x} ({self.kind})"


@dataclass(frozen=True, slots=True)
class DeviceAddresses:
    """The addresses that devices can be given for their DMA.

    reserved: the regions that must not be mapped, by address. width: how many bits an address has that the IOMMU
    translates; None if the host does not say. groups: the numbers of the devices' IOMMU groups; empty for what all
    groups of the host have in common.
    """

    reserved: tuple[ReservedRegion, ...]
    width: int | None
    groups: tuple[int, ...] = ()

    def obstacle(self, first: int, last: int) -> ReservedRegion | None:
        """The lowest reserved region with an address from first to last; None if there is none."""
        return next((each for each in self.reserved if each.first <= last and first <= each.last), None)

    def reaches(self, last: int) -> bool:
        """Whether the IOMMU translates the address last, as far as the host says."""
        return self.width is None or last < 1 << self.width

    def fitting(self, size: int, start: int, alignment: int) -> int | None:
        """The lowest multiple of alignment from start on at which size bytes fit; None if there is none.

        start is an address; size and alignment are bytes.
        """
        at = _aligned(start, alignment)
        while self.reaches(at + size - 1) and at + size <= 1 << 64:
            obstacle = self.obstacle(at, at + size - 1)
            if obstacle is None:
                return at
            at = _aligned(obstacle.last + 1, alignment)
        return None

    def largest(self, start: int, alignment: int) -> int:
        """The bytes of the largest region that fits from start on, beginning and ending at multiples of alignment."""
        end = 1 << (self.width or 64)
        edges = [(each.first, each.last + 1) for each in self.reserved if each.last >= start]
        begin, best = _aligned(start, alignment), 0
        for first, after in [*edges, (end, end)]:
            best = max(best, (min(first, end) - begin) // alignment * alignment)
            begin = max(begin, _aligned(after, alignment))
        return best


def device_addresses(kernel: Kernel, addresses: Iterable[str] = ()) -> DeviceAddresses | None:
    """The addresses that devices can be given for their DMA; None if there is no IOMMU behind them.

    addresses: where the devices are on the PCI bus. Without any, they are the devices that are bound to a VFIO driver;
    if there are none either, the answer is what all groups of the host have in common.
    Source: Documentation/ABI/testing/sysfs-kernel-iommu_groups and sysfs-class-iommu-intel-iommu; which kinds VFIO and
    iommufd keep out of: drivers/vfio/vfio_iommu_type1.c, vfio_iommu_resv_exclude.
    """
    wanted = set(addresses)
    functions = [each for each in pci_devices(kernel) if each.group is not None]
    chosen = [each for each in functions if each.address in wanted or (not wanted and each.has_vfio_driver)]
    groups = sorted({each.group for each in chosen if each.group is not None and not is_noiommu(kernel, each.group)})
    if groups:
        regions = {region for group in groups for region in _reserved(kernel, group)}
        members = [member.address for group in groups for member in group_members(kernel, group)]
    elif wanted:
        return None
    else:
        everywhere = sorted({each.group for each in functions if each.group is not None})
        sets = [set(_reserved(kernel, group)) for group in everywhere]
        if not sets:
            return None
        regions, members = set.intersection(*sets), [each.address for each in functions]
    return DeviceAddresses(tuple(sorted(regions)), _width(kernel, members), tuple(groups))


def _reserved(kernel: Kernel, group: int) -> Iterable[ReservedRegion]:
    """The regions of a group that must not be mapped: a driver may map over "direct-relaxable" ones."""
    for line in lines_of(text_or_empty(kernel, f"{GROUPS}/{group}/reserved_regions")):
        match = re.fullmatch(r"0x([0-9a-f]+) 0x([0-9a-f]+) (\S+)", line.strip())
        if match and match[3] != "direct-relaxable":
            yield ReservedRegion(int(match[1], 16), int(match[2], 16), match[3])


def _width(kernel: Kernel, addresses: Sequence[str]) -> int | None:
    """How many bits the narrowest of the units behind the functions at addresses translates; None if none tells.

    Only units of VT-d tell.
    """
    named = {link_name(kernel, f"{DEVICES}/{address}/iommu") for address in addresses}
    units = [unit for unit in named if unit] or names_in(kernel, _UNITS)
    texts = (text_or_empty(kernel, f"{_UNITS}/{unit}/intel-iommu/cap") for unit in units)
    return min((_intel_width(int(text, 16)) for text in texts if re.fullmatch(r"[0-9a-f]+", text)), default=None)


def _intel_width(capabilities: int) -> int:
    """How many bits a unit of VT-d translates: as its deepest page tables do, but not more than its addresses have.

    Source: VT-d, the capability register.
    """
    deepest = max((bit for bit in range(1, 4) if capabilities >> (8 + bit) & 1), default=1)
    return min(30 + 9 * deepest, (capabilities >> 16 & 0x3F) + 1)


def _aligned(value: int, unit: int) -> int:
    """value rounded up to a multiple of unit."""
    return -(-value // unit) * unit
