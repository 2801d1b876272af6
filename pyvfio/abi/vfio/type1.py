"""linux/vfio.h: the type1 IOMMU of a container: info, DMA mappings, dirty pages."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, FlexibleArray, pointer, struct, u32, u64
from pyvfio.abi.vfio.container import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header


@struct
class vfio_iommu_type1_info(Argsz):
    """linux/vfio.h. Out: iova_pgsizes: a bit for each page size, bytes; cap_offset: bytes from the start."""

    argsz: u32
    flags: u32
    iova_pgsizes: u64
    cap_offset: u32
    pad: u32


VFIO_IOMMU_INFO_PGSIZES: Final = 1 << 0
VFIO_IOMMU_INFO_CAPS: Final = 1 << 1

VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: Final = 1


@struct
class vfio_iova_range(ctypes.Structure):
    """linux/vfio.h. Device addresses from start to end, both included."""

    start: u64
    end: u64


@struct
class vfio_iommu_type1_info_cap_iova_range(ctypes.Structure):
    """linux/vfio.h. The nr_iovas ranges that can be mapped."""

    header: vfio_info_cap_header
    nr_iovas: u32
    reserved: u32
    iova_ranges: FlexibleArray[vfio_iova_range]


VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: Final = 2


@struct
class vfio_iommu_type1_info_cap_migration(ctypes.Structure):
    """linux/vfio.h. Dirty tracking: pgsize_bitmap: a bit for each page size; max_dirty_bitmap_size: bytes."""

    header: vfio_info_cap_header
    flags: u32
    pgsize_bitmap: u64
    max_dirty_bitmap_size: u64


VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: Final = 3


@struct
class vfio_iommu_type1_info_dma_avail(ctypes.Structure):
    """linux/vfio.h. avail: mappings the container can still take."""

    header: vfio_info_cap_header
    avail: u32


VFIO_IOMMU_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 12)


@struct
class vfio_iommu_type1_dma_map(Argsz):
    """linux/vfio.h. vaddr: this process's address; iova: the device's; size: bytes. All multiples
    of the IOMMU page.
    """

    argsz: u32
    flags: u32
    vaddr: u64
    iova: u64
    size: u64


VFIO_DMA_MAP_FLAG_READ: Final = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE: Final = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR: Final = 1 << 2

VFIO_IOMMU_MAP_DMA: Final = _IO(VFIO_TYPE, VFIO_BASE + 13)


@struct
class vfio_bitmap(ctypes.Structure):
    """linux/vfio.h. pgsize: bytes a bit stands for; size: bytes of the bitmap; data: its address,
    64-bit words.
    """

    pgsize: u64
    size: u64
    data: pointer


@struct
class vfio_iommu_type1_dma_unmap(Argsz):
    """linux/vfio.h. iova and size: bytes; out: size, what was unmapped. data: a vfio_bitmap if its
    flag is set.
    """

    argsz: u32
    flags: u32
    iova: u64
    size: u64
    data: FlexibleArray[ctypes.c_uint8]


VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: Final = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL: Final = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR: Final = 1 << 2

VFIO_IOMMU_UNMAP_DMA: Final = _IO(VFIO_TYPE, VFIO_BASE + 14)

VFIO_IOMMU_ENABLE: Final = _IO(VFIO_TYPE, VFIO_BASE + 15)
VFIO_IOMMU_DISABLE: Final = _IO(VFIO_TYPE, VFIO_BASE + 16)


@struct
class vfio_iommu_type1_dirty_bitmap(Argsz):
    """linux/vfio.h. data: a vfio_iommu_type1_dirty_bitmap_get with GET_BITMAP, else nothing."""

    argsz: u32
    flags: u32
    data: FlexibleArray[ctypes.c_uint8]


VFIO_IOMMU_DIRTY_PAGES_FLAG_START: Final = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: Final = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: Final = 1 << 2


@struct
class vfio_iommu_type1_dirty_bitmap_get(ctypes.Structure):
    """linux/vfio.h. size bytes from iova, multiples of bitmap.pgsize."""

    iova: u64
    size: u64
    bitmap: vfio_bitmap


VFIO_IOMMU_DIRTY_PAGES: Final = _IO(VFIO_TYPE, VFIO_BASE + 17)
