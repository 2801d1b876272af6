"""linux/vfio.h: API version, extensions, capability chains, containers and groups."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, struct, u16, u32

VFIO_API_VERSION: Final = 0

# VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU.
VFIO_TYPE1_IOMMU: Final = 1
VFIO_SPAPR_TCE_IOMMU: Final = 2
VFIO_TYPE1v2_IOMMU: Final = 3
VFIO_DMA_CC_IOMMU: Final = 4
VFIO_EEH: Final = 5
VFIO_TYPE1_NESTING_IOMMU: Final = 6  # the name until Linux 6.12
__VFIO_RESERVED_TYPE1_NESTING_IOMMU: Final = 6
VFIO_SPAPR_TCE_v2_IOMMU: Final = 7
VFIO_NOIOMMU_IOMMU: Final = 8
VFIO_UNMAP_ALL: Final = 9
VFIO_UPDATE_VADDR: Final = 10

VFIO_TYPE: Final = ord(";")
VFIO_BASE: Final = 100


@struct
class vfio_info_cap_header(ctypes.Structure):
    """linux/vfio.h. One link of a capability chain; next: bytes from the start of the info struct,
    0 for the last.
    """

    id: u16
    version: u16
    next: u32


VFIO_GET_API_VERSION: Final = _IO(VFIO_TYPE, VFIO_BASE + 0)
VFIO_CHECK_EXTENSION: Final = _IO(VFIO_TYPE, VFIO_BASE + 1)
VFIO_SET_IOMMU: Final = _IO(VFIO_TYPE, VFIO_BASE + 2)


@struct
class vfio_group_status(Argsz):
    """linux/vfio.h. Out: flags."""

    argsz: u32
    flags: u32


VFIO_GROUP_FLAGS_VIABLE: Final = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1

VFIO_GROUP_GET_STATUS: Final = _IO(VFIO_TYPE, VFIO_BASE + 3)
VFIO_GROUP_SET_CONTAINER: Final = _IO(VFIO_TYPE, VFIO_BASE + 4)
VFIO_GROUP_UNSET_CONTAINER: Final = _IO(VFIO_TYPE, VFIO_BASE + 5)
VFIO_GROUP_GET_DEVICE_FD: Final = _IO(VFIO_TYPE, VFIO_BASE + 6)
