"""linux/iommufd.h: what the IOMMU behind a device can do."""

import ctypes
from typing import Annotated, Final

from pyvfio.abi.iommufd.ioas import IOMMUFD_CMD_GET_HW_INFO, IOMMUFD_TYPE
from pyvfio.abi.types import _IO, Overlay, Size, struct, u8, u32, u64

# enum iommu_hw_info_vtd_flags
IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: Final = 1 << 0


@struct
class iommu_hw_info_vtd(ctypes.Structure):
    """linux/iommufd.h. VT-d's capability and extended capability registers."""

    flags: u32
    __reserved: u32
    cap_reg: u64
    ecap_reg: u64


# enum iommu_hw_info_arm_smmuv3_flags
IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI: Final = 1 << 0


@struct
class iommu_hw_info_arm_smmuv3(ctypes.Structure):
    """linux/iommufd.h. SMMUv3's IDR0 to IDR5, IIDR and AIDR registers."""

    flags: u32
    __reserved: u32
    idr: Annotated[ctypes.Array[ctypes.c_uint32], 6]
    iidr: u32
    aidr: u32


@struct
class iommu_hw_info_tegra241_cmdqv(ctypes.Structure):
    """linux/iommufd.h. log2vcmdqs, log2vsids: logarithms of how many a virtual interface has."""

    flags: u32
    version: u8
    log2vcmdqs: u8
    log2vsids: u8
    __reserved: u8


@struct
class iommu_hw_info_amd(ctypes.Structure):
    """linux/iommufd.h. AMD's extended feature registers."""

    efr: u64
    efr2: u64


# enum iommu_hw_info_type
IOMMU_HW_INFO_TYPE_NONE: Final = 0
IOMMU_HW_INFO_TYPE_DEFAULT: Final = 0
IOMMU_HW_INFO_TYPE_INTEL_VTD: Final = 1
IOMMU_HW_INFO_TYPE_ARM_SMMUV3: Final = 2
IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: Final = 3
IOMMU_HW_INFO_TYPE_AMD: Final = 4

# enum iommufd_hw_capabilities
IOMMU_HW_CAP_DIRTY_TRACKING: Final = 1 << 0
IOMMU_HW_CAP_PCI_PASID_EXEC: Final = 1 << 1
IOMMU_HW_CAP_PCI_PASID_PRIV: Final = 1 << 2
IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED: Final = 1 << 3

# enum iommufd_hw_info_flags
IOMMU_HW_INFO_FLAG_INPUT_TYPE: Final = 1 << 0


@struct
class iommu_hw_info(Size):
    """linux/iommufd.h. data_uptr: address of data_len bytes for the struct of out_data_type;
    data_len, out: its size.
    """

    size: u32
    flags: u32
    dev_id: u32
    data_len: u32
    data_uptr: u64
    in_data_type: u32
    out_data_type: Overlay[u32]
    out_max_pasid_log2: u8
    __reserved: Annotated[ctypes.Array[ctypes.c_uint8], 3]
    out_capabilities: u64


IOMMU_GET_HW_INFO: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO)
