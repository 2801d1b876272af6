"""linux/iommufd.h: virtual IOMMUs: their devices, event queues and hardware queues."""

import ctypes
from typing import Annotated, Final

from pyvfio.abi.iommufd.ioas import (
    IOMMUFD_CMD_HW_QUEUE_ALLOC,
    IOMMUFD_CMD_VDEVICE_ALLOC,
    IOMMUFD_CMD_VEVENTQ_ALLOC,
    IOMMUFD_CMD_VIOMMU_ALLOC,
    IOMMUFD_TYPE,
)
from pyvfio.abi.types import _IO, Size, struct, u32, u64

# enum iommu_viommu_type
IOMMU_VIOMMU_TYPE_DEFAULT: Final = 0
IOMMU_VIOMMU_TYPE_ARM_SMMUV3: Final = 1
IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV: Final = 2


@struct
class iommu_viommu_tegra241_cmdqv(ctypes.Structure):
    """linux/iommufd.h. Out: where the virtual interface is mapped in the iommufd, bytes."""

    out_vintf_mmap_offset: u64
    out_vintf_mmap_length: u64


@struct
class iommu_viommu_alloc(Size):
    """linux/iommufd.h. hwpt_id: the nesting parent; data_uptr: address of data_len bytes of the
    type's struct.
    """

    size: u32
    flags: u32
    type: u32
    dev_id: u32
    hwpt_id: u32
    out_viommu_id: u32
    data_len: u32
    __reserved: u32
    data_uptr: u64


IOMMU_VIOMMU_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC)


@struct
class iommu_vdevice_alloc(Size):
    """linux/iommufd.h. virt_id: the device's id on the guest's IOMMU: stream, device or requester id."""

    size: u32
    viommu_id: u32
    dev_id: u32
    out_vdevice_id: u32
    virt_id: u64


IOMMU_VDEVICE_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC)

# enum iommu_veventq_flag
IOMMU_VEVENTQ_FLAG_LOST_EVENTS: Final = 1 << 0


@struct
class iommufd_vevent_header(ctypes.Structure):
    """linux/iommufd.h. Read from an event queue, before each event; a gap in sequence is lost events."""

    flags: u32
    sequence: u32


# enum iommu_veventq_type
IOMMU_VEVENTQ_TYPE_DEFAULT: Final = 0
IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: Final = 1
IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: Final = 2


@struct
class iommu_vevent_arm_smmuv3(ctypes.LittleEndianStructure):
    """linux/iommufd.h. One record of the SMMUv3 event queue."""

    evt: Annotated[ctypes.Array[ctypes.c_uint64], 4]


@struct
class iommu_vevent_tegra241_cmdqv(ctypes.LittleEndianStructure):
    """linux/iommufd.h. A bit for each logical command queue with an error."""

    lvcmdq_err_map: Annotated[ctypes.Array[ctypes.c_uint64], 2]


@struct
class iommu_veventq_alloc(Size):
    """linux/iommufd.h. veventq_depth: events held at most. Out: the queue's object and the fd to
    read events from.
    """

    size: u32
    flags: u32
    viommu_id: u32
    type: u32
    veventq_depth: u32
    out_veventq_id: u32
    out_veventq_fd: u32
    __reserved: u32


IOMMU_VEVENTQ_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC)

# enum iommu_hw_queue_type
IOMMU_HW_QUEUE_TYPE_DEFAULT: Final = 0
IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV: Final = 1


@struct
class iommu_hw_queue_alloc(Size):
    """linux/iommufd.h. length bytes of guest memory from nesting_parent_iova, for the queue of this index."""

    size: u32
    flags: u32
    viommu_id: u32
    type: u32
    index: u32
    out_hw_queue_id: u32
    nesting_parent_iova: u64
    length: u64


IOMMU_HW_QUEUE_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC)
