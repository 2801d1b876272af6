"""linux/iommufd.h: hardware page tables: allocation, dirty tracking, invalidation, page faults."""

import ctypes
from typing import Annotated, Final

from pyvfio.abi.iommufd.ioas import (
    IOMMUFD_CMD_FAULT_QUEUE_ALLOC,
    IOMMUFD_CMD_HWPT_ALLOC,
    IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP,
    IOMMUFD_CMD_HWPT_INVALIDATE,
    IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING,
    IOMMUFD_TYPE,
)
from pyvfio.abi.types import _IO, Size, struct, u32, u64

# enum iommufd_hwpt_alloc_flags
IOMMU_HWPT_ALLOC_NEST_PARENT: Final = 1 << 0
IOMMU_HWPT_ALLOC_DIRTY_TRACKING: Final = 1 << 1
IOMMU_HWPT_FAULT_ID_VALID: Final = 1 << 2
IOMMU_HWPT_ALLOC_PASID: Final = 1 << 3

# enum iommu_hwpt_vtd_s1_flags
IOMMU_VTD_S1_SRE: Final = 1 << 0
IOMMU_VTD_S1_EAFE: Final = 1 << 1
IOMMU_VTD_S1_WPE: Final = 1 << 2


@struct
class iommu_hwpt_vtd_s1(ctypes.Structure):
    """linux/iommufd.h. VT-d stage 1: pgtbl_addr: of the guest's top table; addr_width: bits."""

    flags: u64
    pgtbl_addr: u64
    addr_width: u32
    __reserved: u32


@struct
class iommu_hwpt_arm_smmuv3(ctypes.LittleEndianStructure):
    """linux/iommufd.h. The first two double words of the guest's stream table entry."""

    ste: Annotated[ctypes.Array[ctypes.c_uint64], 2]


@struct
class iommu_hwpt_amd_guest(ctypes.Structure):
    """linux/iommufd.h. The guest's device table entry."""

    dte: Annotated[ctypes.Array[ctypes.c_uint64], 4]


# enum iommu_hwpt_data_type
IOMMU_HWPT_DATA_NONE: Final = 0
IOMMU_HWPT_DATA_VTD_S1: Final = 1
IOMMU_HWPT_DATA_ARM_SMMUV3: Final = 2
IOMMU_HWPT_DATA_AMD_GUEST: Final = 3


@struct
class iommu_hwpt_alloc(Size):
    """linux/iommufd.h. pt_id: an IOAS, a parent page table or a vIOMMU; data_uptr: address of
    data_len bytes of data_type.
    """

    size: u32
    flags: u32
    dev_id: u32
    pt_id: u32
    out_hwpt_id: u32
    __reserved: u32
    data_type: u32
    data_len: u32
    data_uptr: u64
    fault_id: u32
    __reserved2: u32


IOMMU_HWPT_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC)

# enum iommufd_hwpt_set_dirty_tracking_flags
IOMMU_HWPT_DIRTY_TRACKING_ENABLE: Final = 1


@struct
class iommu_hwpt_set_dirty_tracking(Size):
    """linux/iommufd.h. Without IOMMU_HWPT_DIRTY_TRACKING_ENABLE in flags tracking stops."""

    size: u32
    flags: u32
    hwpt_id: u32
    __reserved: u32


IOMMU_HWPT_SET_DIRTY_TRACKING: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING)

# enum iommufd_hwpt_get_dirty_bitmap_flags
IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: Final = 1


@struct
class iommu_hwpt_get_dirty_bitmap(Size):
    """linux/iommufd.h. length bytes from iova; data: address of the bitmap, a bit for each
    page_size bytes.
    """

    size: u32
    hwpt_id: u32
    flags: u32
    __reserved: u32
    iova: u64
    length: u64
    page_size: u64
    data: u64


IOMMU_HWPT_GET_DIRTY_BITMAP: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP)

# enum iommu_hwpt_invalidate_data_type
IOMMU_HWPT_INVALIDATE_DATA_VTD_S1: Final = 0
IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: Final = 1

# enum iommu_hwpt_vtd_s1_invalidate_flags
IOMMU_VTD_INV_FLAGS_LEAF: Final = 1 << 0


@struct
class iommu_hwpt_vtd_s1_invalidate(ctypes.Structure):
    """linux/iommufd.h. npages: of 4 KiB from addr; addr 0 and npages 2**64 - 1: everything."""

    addr: u64
    npages: u64
    flags: u32
    __reserved: u32


@struct
class iommu_viommu_arm_smmuv3_invalidate(ctypes.LittleEndianStructure):
    """linux/iommufd.h. One invalidation command of the guest's command queue."""

    cmd: Annotated[ctypes.Array[ctypes.c_uint64], 2]


@struct
class iommu_hwpt_invalidate(Size):
    """linux/iommufd.h. data_uptr: address of entry_num requests of entry_len bytes each. Out:
    entry_num, how many were done.
    """

    size: u32
    hwpt_id: u32
    data_uptr: u64
    data_type: u32
    entry_len: u32
    entry_num: u32
    __reserved: u32


IOMMU_HWPT_INVALIDATE: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE)

# enum iommu_hwpt_pgfault_flags
IOMMU_PGFAULT_FLAGS_PASID_VALID: Final = 1 << 0
IOMMU_PGFAULT_FLAGS_LAST_PAGE: Final = 1 << 1

# enum iommu_hwpt_pgfault_perm
IOMMU_PGFAULT_PERM_READ: Final = 1 << 0
IOMMU_PGFAULT_PERM_WRITE: Final = 1 << 1
IOMMU_PGFAULT_PERM_EXEC: Final = 1 << 2
IOMMU_PGFAULT_PERM_PRIV: Final = 1 << 3


@struct
class iommu_hwpt_pgfault(ctypes.Structure):
    """linux/iommufd.h. Read from a fault queue: addr: the page that faulted; length: bytes, a hint."""

    flags: u32
    dev_id: u32
    pasid: u32
    grpid: u32
    perm: u32
    __reserved: u32
    addr: u64
    length: u32
    cookie: u32


# enum iommufd_page_response_code
IOMMUFD_PAGE_RESP_SUCCESS: Final = 0
IOMMUFD_PAGE_RESP_INVALID: Final = 1


@struct
class iommu_hwpt_page_response(ctypes.Structure):
    """linux/iommufd.h. Written to a fault queue: the answer to the fault of this cookie."""

    cookie: u32
    code: u32


@struct
class iommu_fault_alloc(Size):
    """linux/iommufd.h. Out: the fault queue's object and the fd to read faults from and write
    responses to.
    """

    size: u32
    flags: u32
    out_fault_id: u32
    out_fault_fd: u32


IOMMU_FAULT_QUEUE_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC)
