"""linux/iommufd.h: command numbers, objects, IO address spaces, options."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Size, s32, struct, u16, u32, u64

IOMMUFD_TYPE: Final = ord(";")

IOMMUFD_CMD_BASE: Final = 0x80
IOMMUFD_CMD_DESTROY: Final = IOMMUFD_CMD_BASE
IOMMUFD_CMD_IOAS_ALLOC: Final = 0x81
IOMMUFD_CMD_IOAS_ALLOW_IOVAS: Final = 0x82
IOMMUFD_CMD_IOAS_COPY: Final = 0x83
IOMMUFD_CMD_IOAS_IOVA_RANGES: Final = 0x84
IOMMUFD_CMD_IOAS_MAP: Final = 0x85
IOMMUFD_CMD_IOAS_UNMAP: Final = 0x86
IOMMUFD_CMD_OPTION: Final = 0x87
IOMMUFD_CMD_VFIO_IOAS: Final = 0x88
IOMMUFD_CMD_HWPT_ALLOC: Final = 0x89
IOMMUFD_CMD_GET_HW_INFO: Final = 0x8A
IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING: Final = 0x8B
IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP: Final = 0x8C
IOMMUFD_CMD_HWPT_INVALIDATE: Final = 0x8D
IOMMUFD_CMD_FAULT_QUEUE_ALLOC: Final = 0x8E
IOMMUFD_CMD_IOAS_MAP_FILE: Final = 0x8F
IOMMUFD_CMD_VIOMMU_ALLOC: Final = 0x90
IOMMUFD_CMD_VDEVICE_ALLOC: Final = 0x91
IOMMUFD_CMD_IOAS_CHANGE_PROCESS: Final = 0x92
IOMMUFD_CMD_VEVENTQ_ALLOC: Final = 0x93
IOMMUFD_CMD_HW_QUEUE_ALLOC: Final = 0x94
IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA: Final = 0x95


@struct
class iommu_destroy(Size):
    """linux/iommufd.h. id: an object that nothing else uses."""

    size: u32
    id: u32


IOMMU_DESTROY: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY)


@struct
class iommu_ioas_alloc(Size):
    """linux/iommufd.h. Out: out_ioas_id."""

    size: u32
    flags: u32
    out_ioas_id: u32


IOMMU_IOAS_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC)


@struct
class iommu_iova_range(ctypes.Structure):
    """linux/iommufd.h. Device addresses from start to last, both included."""

    start: u64
    last: u64


@struct
class iommu_ioas_iova_ranges(Size):
    """linux/iommufd.h. allowed_iovas: address of num_iovas iommu_iova_range. Out: their number;
    alignment in bytes.
    """

    size: u32
    ioas_id: u32
    num_iovas: u32
    __reserved: u32
    allowed_iovas: u64
    out_iova_alignment: u64


IOMMU_IOAS_IOVA_RANGES: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES)


@struct
class iommu_ioas_allow_iovas(Size):
    """linux/iommufd.h. allowed_iovas: address of num_iovas iommu_iova_range; nothing else is
    allocated then.
    """

    size: u32
    ioas_id: u32
    num_iovas: u32
    __reserved: u32
    allowed_iovas: u64


IOMMU_IOAS_ALLOW_IOVAS: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS)

# enum iommufd_ioas_map_flags
IOMMU_IOAS_MAP_FIXED_IOVA: Final = 1 << 0
IOMMU_IOAS_MAP_WRITEABLE: Final = 1 << 1
IOMMU_IOAS_MAP_READABLE: Final = 1 << 2


@struct
class iommu_ioas_map(Size):
    """linux/iommufd.h. user_va: this process's address; length: bytes; iova: the device's, out
    unless FIXED_IOVA.
    """

    size: u32
    flags: u32
    ioas_id: u32
    __reserved: u32
    user_va: u64
    length: u64
    iova: u64


IOMMU_IOAS_MAP: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP)


@struct
class iommu_ioas_map_file(Size):
    """linux/iommufd.h. As iommu_ioas_map, of length bytes from start of the file fd."""

    size: u32
    flags: u32
    ioas_id: u32
    fd: s32
    start: u64
    length: u64
    iova: u64


IOMMU_IOAS_MAP_FILE: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE)


@struct
class iommu_ioas_copy(Size):
    """linux/iommufd.h. length: bytes; flags as in iommu_ioas_map; dst_iova: out unless FIXED_IOVA."""

    size: u32
    flags: u32
    dst_ioas_id: u32
    src_ioas_id: u32
    length: u64
    dst_iova: u64
    src_iova: u64


IOMMU_IOAS_COPY: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY)


@struct
class iommu_ioas_unmap(Size):
    """linux/iommufd.h. length, in: bytes from iova, all with iova 0 and length 2**64 - 1; out:
    bytes unmapped.
    """

    size: u32
    ioas_id: u32
    iova: u64
    length: u64


IOMMU_IOAS_UNMAP: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP)


@struct
class iommu_ioas_noiommu_get_pa(Size):
    """linux/iommufd.h. length, in: bytes from iova asked for; out: those contiguous from out_phys."""

    size: u32
    flags: u32
    ioas_id: u32
    __reserved: u32
    iova: u64
    length: u64
    out_phys: u64


IOMMU_IOAS_NOIOMMU_GET_PA: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA)

# enum iommufd_option
IOMMU_OPTION_RLIMIT_MODE: Final = 0
IOMMU_OPTION_HUGE_PAGES: Final = 1

# enum iommufd_option_ops
IOMMU_OPTION_OP_SET: Final = 0
IOMMU_OPTION_OP_GET: Final = 1


@struct
class iommu_option(Size):
    """linux/iommufd.h. object_id: an IOAS, 0 for the whole iommufd; val64: in for SET, out for GET."""

    size: u32
    option_id: u32
    op: u16
    __reserved: u16
    object_id: u32
    val64: u64


IOMMU_OPTION: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION)

# enum iommufd_vfio_ioas_op
IOMMU_VFIO_IOAS_GET: Final = 0
IOMMU_VFIO_IOAS_SET: Final = 1
IOMMU_VFIO_IOAS_CLEAR: Final = 2


@struct
class iommu_vfio_ioas(Size):
    """linux/iommufd.h. ioas_id: the IOAS that VFIO container ioctls work on; in for SET, out for GET."""

    size: u32
    ioas_id: u32
    op: u16
    __reserved: u16


IOMMU_VFIO_IOAS: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS)


@struct
class iommu_ioas_change_process(Size):
    """linux/iommufd.h. Charges every file mapping to the calling process from now on."""

    size: u32
    __reserved: u32


IOMMU_IOAS_CHANGE_PROCESS: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS)
