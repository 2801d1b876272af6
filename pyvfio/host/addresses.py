"""Which addresses a device can be given for its DMA, as sysfs tells before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyvfio.kernel import Kernel, link_name, names_in, text_or_empty
from pyvfio.sysfs import DEVICES, GROUPS, group_members, is_noiommu, pci_devices

_UNITS = "/sys/class/iommu"


@dataclass(frozen=True, slots=True, order=True)
class ReservedRegion:
    """first to last, both included, must not be mapped. kind: of the kernel's words: "msi", "reserved", "direct"."""

    first: int
    last: int
    kind: str

    def __str__(self) -> str:
        return f"{self.first:#x}-{self.last:#x} ({self.kind})"


@dataclass(frozen=True, slots=True)
class DeviceAddresses:
    """reserved: in order of address. width: bits of the addresses that the IOMMU translates, None where that is not
    told. groups: whose these are; empty for what is common to all groups of the host."""

    reserved: tuple[ReservedRegion, ...]
    width: int | None
    groups: tuple[int, ...] = ()

    def obstacle(self, first: int, last: int) -> ReservedRegion | None:
        """The lowest reserved region that first to last runs into."""
        return next((each for each in self.reserved if each.first <= last and first <= each.last), None)

    def reaches(self, last: int) -> bool:
        return self.width is None or last < 1 << self.width

    def fitting(self, size: int, start: int, alignment: int) -> int | None:
        """The lowest address from start on where size bytes fit; None if there is none. All are bytes."""
        at = _aligned(start, alignment)
        while self.reaches(at + size - 1) and at + size <= 1 << 64:
            obstacle = self.obstacle(at, at + size - 1)
            if obstacle is None:
                return at
            at = _aligned(obstacle.last + 1, alignment)
        return None

    def largest(self, start: int, alignment: int) -> int:
        """Bytes of the largest region that fits from start on, a multiple of alignment."""
        end = 1 << (self.width or 64)
        edges = [(each.first, each.last + 1) for each in self.reserved if each.last >= start]
        begin, best = _aligned(start, alignment), 0
        for first, after in [*edges, (end, end)]:
            best = max(best, (min(first, end) - begin) // alignment * alignment)
            begin = max(begin, _aligned(after, alignment))
        return best


def device_addresses(kernel: Kernel, addresses: Iterable[str] = ()) -> DeviceAddresses | None:
    """Of the groups of these functions; of those that VFIO has where none is given; and where it has none, what is
    common to all groups of the host. None without an IOMMU.

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
    """A driver may map over what is "direct-relaxable"."""
    for line in text_or_empty(kernel, f"{GROUPS}/{group}/reserved_regions").splitlines():
        match = re.fullmatch(r"0x([0-9a-f]+) 0x([0-9a-f]+) (\S+)", line.strip())
        if match and match[3] != "direct-relaxable":
            yield ReservedRegion(int(match[1], 16), int(match[2], 16), match[3])


def _width(kernel: Kernel, addresses: Sequence[str]) -> int | None:
    """The narrowest of the units behind these functions; only VT-d tells."""
    named = {link_name(kernel, f"{DEVICES}/{address}/iommu") for address in addresses}
    units = [unit for unit in named if unit] or names_in(kernel, _UNITS)
    texts = (text_or_empty(kernel, f"{_UNITS}/{unit}/intel-iommu/cap") for unit in units)
    return min((_intel_width(int(text, 16)) for text in texts if re.fullmatch(r"[0-9a-f]+", text)), default=None)


def _intel_width(capabilities: int) -> int:
    """Of page tables of as many levels as the unit walks, if it takes addresses so wide.

    Source: VT-d, the capability register.
    """
    deepest = max((bit for bit in range(1, 4) if capabilities >> (8 + bit) & 1), default=1)
    return min(30 + 9 * deepest, (capabilities >> 16 & 0x3F) + 1)


def _aligned(value: int, unit: int) -> int:
    return -(-value // unit) * unit
