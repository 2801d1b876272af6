"""linux/vfio.h: regions, their capabilities and the device-specific region types."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, FlexibleArray, struct, u32, u64
from pyvfio.abi.vfio.container import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header


@struct
class vfio_region_info(Argsz):
    """linux/vfio.h. In: index. Out: size and offset in the device fd, bytes; cap_offset: bytes from
    the start.
    """

    argsz: u32
    flags: u32
    index: u32
    cap_offset: u32
    size: u64
    offset: u64


VFIO_REGION_INFO_FLAG_READ: Final = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE: Final = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP: Final = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS: Final = 1 << 3

VFIO_DEVICE_GET_REGION_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 8)

VFIO_REGION_INFO_CAP_SPARSE_MMAP: Final = 1


@struct
class vfio_region_sparse_mmap_area(ctypes.Structure):
    """linux/vfio.h. A part that can be mapped: offset in the region and size, bytes."""

    offset: u64
    size: u64


@struct
class vfio_region_info_cap_sparse_mmap(ctypes.Structure):
    """linux/vfio.h. The nr_areas parts of the region that can be mapped; nothing else of it can."""

    header: vfio_info_cap_header
    nr_areas: u32
    reserved: u32
    areas: FlexibleArray[vfio_region_sparse_mmap_area]


VFIO_REGION_INFO_CAP_TYPE: Final = 2


@struct
class vfio_region_info_cap_type(ctypes.Structure):
    """linux/vfio.h. What a device-specific region is."""

    header: vfio_info_cap_header
    type: u32
    subtype: u32


VFIO_REGION_TYPE_PCI_VENDOR_TYPE: Final = 1 << 31
VFIO_REGION_TYPE_PCI_VENDOR_MASK: Final = 0xFFFF
VFIO_REGION_TYPE_GFX: Final = 1
VFIO_REGION_TYPE_CCW: Final = 2
VFIO_REGION_TYPE_MIGRATION_DEPRECATED: Final = 3

VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION: Final = 1
VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG: Final = 2
VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG: Final = 3
VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM: Final = 1
VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD: Final = 1
VFIO_REGION_SUBTYPE_GFX_EDID: Final = 1


@struct
class vfio_region_gfx_edid(ctypes.Structure):
    """linux/vfio.h. Head of an EDID region; edid_offset, edid_size, edid_max_size: bytes."""

    edid_offset: u32
    edid_max_size: u32
    edid_size: u32
    max_xres: u32
    max_yres: u32
    link_state: u32


VFIO_DEVICE_GFX_LINK_STATE_UP: Final = 1
VFIO_DEVICE_GFX_LINK_STATE_DOWN: Final = 2

VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD: Final = 1
VFIO_REGION_SUBTYPE_CCW_SCHIB: Final = 2
VFIO_REGION_SUBTYPE_CCW_CRW: Final = 3

VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED: Final = 1


@struct
class vfio_device_migration_info(ctypes.Structure):
    """linux/vfio.h. Head of a version 1 migration region, deprecated; offsets and sizes: bytes."""

    device_state: u32
    reserved: u32
    pending_bytes: u64
    data_offset: u64
    data_size: u64


VFIO_DEVICE_STATE_V1_STOP: Final = 0
VFIO_DEVICE_STATE_V1_RUNNING: Final = 1 << 0
VFIO_DEVICE_STATE_V1_SAVING: Final = 1 << 1
VFIO_DEVICE_STATE_V1_RESUMING: Final = 1 << 2
VFIO_DEVICE_STATE_MASK: Final = (
    VFIO_DEVICE_STATE_V1_RUNNING | VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING
)

VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: Final = 3

VFIO_REGION_INFO_CAP_NVLINK2_SSATGT: Final = 4


@struct
class vfio_region_info_cap_nvlink2_ssatgt(ctypes.Structure):
    """linux/vfio.h. tgt: the address NVLink uses for the region."""

    header: vfio_info_cap_header
    tgt: u64


VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD: Final = 5


@struct
class vfio_region_info_cap_nvlink2_lnkspd(ctypes.Structure):
    """linux/vfio.h. link_speed: as the device tree states it."""

    header: vfio_info_cap_header
    link_speed: u32
    __pad: u32


VFIO_PCI_BAR0_REGION_INDEX: Final = 0
VFIO_PCI_BAR1_REGION_INDEX: Final = 1
VFIO_PCI_BAR2_REGION_INDEX: Final = 2
VFIO_PCI_BAR3_REGION_INDEX: Final = 3
VFIO_PCI_BAR4_REGION_INDEX: Final = 4
VFIO_PCI_BAR5_REGION_INDEX: Final = 5
VFIO_PCI_ROM_REGION_INDEX: Final = 6
VFIO_PCI_CONFIG_REGION_INDEX: Final = 7
VFIO_PCI_VGA_REGION_INDEX: Final = 8
VFIO_PCI_NUM_REGIONS: Final = 9

VFIO_CCW_CONFIG_REGION_INDEX: Final = 0
VFIO_CCW_NUM_REGIONS: Final = 1
