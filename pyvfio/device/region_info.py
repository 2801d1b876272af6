"""RegionInfo: what VFIO says of a region. Source: VFIO_DEVICE_GET_REGION_INFO."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.kernel import Capability, chain


class RegionFlags(enum.IntFlag):
    """What can be done with a region: VFIO_REGION_INFO_FLAG_*."""

    READ = vfio.VFIO_REGION_INFO_FLAG_READ
    WRITE = vfio.VFIO_REGION_INFO_FLAG_WRITE
    MMAP = vfio.VFIO_REGION_INFO_FLAG_MMAP
    CAPS = vfio.VFIO_REGION_INFO_FLAG_CAPS


@dataclass(frozen=True, slots=True)
class MmapArea:
    """A part of a region.

    offset: bytes from the region's start. size: bytes.
    """

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class RegionType:
    """What a region is that not every device has.

    type: a VFIO_REGION_TYPE_*. subtype: a VFIO_REGION_SUBTYPE_* of this type, or a number of the vendor's.
    """

    type: int
    subtype: int

    @property
    def vendor(self) -> int | None:
        """The PCI vendor id of the vendor who defines the type; None for a type that VFIO itself defines."""
        if self.type & vfio.VFIO_REGION_TYPE_PCI_VENDOR_TYPE:
            return self.type & vfio.VFIO_REGION_TYPE_PCI_VENDOR_MASK
        return None


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """What VFIO_DEVICE_GET_REGION_INFO says of a region.

    index: which region it is. flags: what can be done with it. size: its bytes; 0 if the device has no such region.
    offset: where it begins in the device's file, in bytes. mmap_areas: the parts of it that can be mapped. type: what a
    region is that not every device has; None for others. msix_mappable: whether the MSI-X table can be mapped with the
    rest. capabilities: all of the struct's capabilities, for those that this library has no name for.
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
    """The answer of VFIO_DEVICE_GET_REGION_INFO. data: info and the capabilities behind it.

    Raises VfioError for a damaged chain.
    """
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
