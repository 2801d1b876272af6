"""What differs between IOMMU models: page sizes, usable addresses, interrupts. Source: drivers/iommu."""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int]
Span = tuple[int, int]
"""Device addresses from the first to the last, both included."""

ALL_ADDRESSES: Span = (0, (1 << 64) - 1)
ALL_PAGE_SIZES = 0xFFFF_FFFF_FFFF_F000

_ROOT = "pci0000:00"
_VIRTIO = "0000:00:01.0"

_MSI: Span = (0xFEE0_0000, 0xFEEF_FFFF)
_HYPERTRANSPORT: Span = (0xFD_0000_0000, 0xFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class IommuModel:
    """An IOMMU. page_sizes: a bit for each; aperture: what it translates; reserved: what of that must not be mapped.

    coherent: it can make accesses coherent with caches. remaps_interrupts: without, VFIO must be told to trust.
    unit: where it is in /sys/devices; None for none.
    """

    page_sizes: int
    aperture: Span
    reserved: tuple[Span, ...]
    coherent: bool
    remaps_interrupts: bool
    unit: str | None

    @property
    def reserved_regions(self) -> tuple[tuple[Span, str], ...]:
        """What sysfs says of the reserved addresses, ascending, each with its kind.

        Source: drivers/iommu/iommu.c, iommu_group_show_resv_regions.
        """
        return tuple((span, "msi" if span == _MSI else "reserved") for span in sorted(self.reserved))

    @property
    def usable(self) -> tuple[Span, ...]:
        """The addresses that can be mapped, ascending."""
        return without((self.aperture,), self.reserved)


def iommu_model(name: str, version: Version) -> IommuModel:
    """The IOMMU of this name: QEMU's "intel", "amd" and "virtio" as the drivers of this Linux show them, or "none".

    Raises KeyError.
    """
    amd_last = (1 << 48) - 1 if version >= (6, 18) else ALL_ADDRESSES[1]
    amd_sizes = 0xF_FF7F_FFFF_F000 if version >= (6, 12) else 0xFFFF_FF7F_FFFF_F000
    if version >= (7, 0):
        amd_sizes = 0x7F7F_FFFF_F000
    models = {
        "intel": IommuModel(0x4020_1000, (0, (1 << 39) - 1), (_MSI,), False, True, "virtual/iommu/dmar0"),
        "amd": IommuModel(
            amd_sizes, (0, amd_last), (_MSI, _HYPERTRANSPORT), True, True, f"{_ROOT}/0000:00:00.2/iommu/ivhd0"
        ),
        "virtio": IommuModel(
            ALL_PAGE_SIZES, ALL_ADDRESSES, (_MSI,), False, False, f"{_ROOT}/{_VIRTIO}/virtio0/iommu/{_VIRTIO}"
        ),
        "none": IommuModel(ALL_PAGE_SIZES, ALL_ADDRESSES, (), True, False, None),
    }
    return models[name]


def without(spans: tuple[Span, ...], reserved: tuple[Span, ...]) -> tuple[Span, ...]:
    """The addresses that are in a span and in no reserved one."""
    for first, last in reserved:
        parts = [((start, min(end, first - 1)), (max(start, last + 1), end)) for start, end in spans]
        spans = tuple(part for pair in parts for part in pair if part[0] <= part[1])
    return spans


def common(spans: tuple[Span, ...], others: tuple[Span, ...]) -> tuple[Span, ...]:
    """The addresses that are in a span of both."""
    pairs = [(max(a[0], b[0]), min(a[1], b[1])) for a in spans for b in others]
    return tuple(sorted(pair for pair in pairs if pair[0] <= pair[1]))
