"""What VFIO tells of a region: flags, size, and its capabilities. Source: VFIO_DEVICE_GET_REGION_INFO."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.kernel import Capability, chain


class RegionFlags(enum.IntFlag):
    """VFIO_REGION_INFO_FLAG_*."""

    READ = vfio.VFIO_REGION_INFO_FLAG_READ
    WRITE = vfio.VFIO_REGION_INFO_FLAG_WRITE
    MMAP = vfio.VFIO_REGION_INFO_FLAG_MMAP
    CAPS = vfio.VFIO_REGION_INFO_FLAG_CAPS


@dataclass(frozen=True, slots=True)
class MmapArea:
    """A part of a region that can be mapped; offset and size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class RegionType:
    """What a device-specific region is: VFIO_REGION_TYPE_* and VFIO_REGION_SUBTYPE_*.

    vendor: the PCI vendor whose types these are; None for the types that VFIO itself defines.
    """

    type: int
    subtype: int

    @property
    def vendor(self) -> int | None:
        if self.type & vfio.VFIO_REGION_TYPE_PCI_VENDOR_TYPE:
            return self.type & vfio.VFIO_REGION_TYPE_PCI_VENDOR_MASK
        return None


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """offset: where the region begins in the device's file. size 0: the device has no such region.

    mmap_areas: the whole region, or the parts of it that can be mapped. msix_mappable: the MSI-X table may be mapped
    with the rest. capabilities: all of them, for those this library has no name for.
    """

    index: int
    flags: RegionFlags
    size: int
    offset: int
    mmap_areas: tuple[MmapArea, ...] = ()
    type: RegionType | None = None
    msix_mappable: bool = False
    capabilities: tuple[Capability, ...] = ()


def region_info(info: vfio.vfio_region_info, data: bytes) -> RegionInfo:
    """data: info and the capabilities behind it. Raises VfioError for a damaged chain."""
    flags = RegionFlags(info.flags)
    capabilities = tuple(chain(data, info.cap_offset)) if flags & RegionFlags.CAPS else ()
    areas: tuple[MmapArea, ...] = (MmapArea(0, info.size),) if info.size else ()
    kind = None
    for capability in capabilities:
        match capability.id:
            case vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
                areas = _sparse_areas(capability)
            case vfio.VFIO_REGION_INFO_CAP_TYPE:
                told = capability.read(vfio.vfio_region_info_cap_type)
                kind = RegionType(told.type, told.subtype)
    return RegionInfo(
        info.index,
        flags,
        info.size,
        info.offset,
        areas if flags & RegionFlags.MMAP else (),
        kind,
        any(capability.id == vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE for capability in capabilities),
        capabilities,
    )


def _sparse_areas(capability: Capability) -> tuple[MmapArea, ...]:
    head = capability.read(vfio.vfio_region_info_cap_sparse_mmap)
    areas = capability.read_array(vfio.vfio_region_sparse_mmap_area, ctypes.sizeof(head), head.nr_areas)
    return tuple(MmapArea(area.offset, area.size) for area in areas if area.size)
