"""linux/vfio.h: the sPAPR TCE IOMMU and EEH of POWER."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, struct, u32, u64
from pyvfio.abi.vfio.container import VFIO_BASE, VFIO_TYPE


@struct
class vfio_iommu_spapr_tce_ddw_info(ctypes.Structure):
    """linux/vfio.h. Dynamic DMA windows: pgsizes: a bit for each page size in bytes."""

    pgsizes: u64
    max_dynamic_windows_supported: u32
    levels: u32


@struct
class vfio_iommu_spapr_tce_info(Argsz):
    """linux/vfio.h. Out: the 32-bit DMA window, bytes."""

    argsz: u32
    flags: u32
    dma32_window_start: u32
    dma32_window_size: u32
    ddw: vfio_iommu_spapr_tce_ddw_info


VFIO_IOMMU_SPAPR_INFO_DDW: Final = 1 << 0

VFIO_IOMMU_SPAPR_TCE_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 12)


@struct
class vfio_eeh_pe_err(ctypes.Structure):
    """linux/vfio.h. The error to inject."""

    type: u32
    func: u32
    addr: u64
    mask: u64


@struct
class vfio_eeh_pe_op(Argsz):
    """linux/vfio.h. err: with VFIO_EEH_PE_INJECT_ERR only."""

    argsz: u32
    flags: u32
    op: u32
    err: vfio_eeh_pe_err


VFIO_EEH_PE_DISABLE: Final = 0
VFIO_EEH_PE_ENABLE: Final = 1
VFIO_EEH_PE_UNFREEZE_IO: Final = 2
VFIO_EEH_PE_UNFREEZE_DMA: Final = 3
VFIO_EEH_PE_GET_STATE: Final = 4
VFIO_EEH_PE_STATE_NORMAL: Final = 0
VFIO_EEH_PE_STATE_RESET: Final = 1
VFIO_EEH_PE_STATE_STOPPED: Final = 2
VFIO_EEH_PE_STATE_STOPPED_DMA: Final = 4
VFIO_EEH_PE_STATE_UNAVAIL: Final = 5
VFIO_EEH_PE_RESET_DEACTIVATE: Final = 5
VFIO_EEH_PE_RESET_HOT: Final = 6
VFIO_EEH_PE_RESET_FUNDAMENTAL: Final = 7
VFIO_EEH_PE_CONFIGURE: Final = 8
VFIO_EEH_PE_INJECT_ERR: Final = 9

VFIO_EEH_PE_OP: Final = _IO(VFIO_TYPE, VFIO_BASE + 21)


@struct
class vfio_iommu_spapr_register_memory(Argsz):
    """linux/vfio.h. vaddr: this process's address; size: bytes."""

    argsz: u32
    flags: u32
    vaddr: u64
    size: u64


VFIO_IOMMU_SPAPR_REGISTER_MEMORY: Final = _IO(VFIO_TYPE, VFIO_BASE + 17)
VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY: Final = _IO(VFIO_TYPE, VFIO_BASE + 18)


@struct
class vfio_iommu_spapr_tce_create(Argsz):
    """linux/vfio.h. In: page_shift, window_size in bytes, levels. Out: start_addr, the window's
    first bus address.
    """

    argsz: u32
    flags: u32
    page_shift: u32
    __resv1: u32
    window_size: u64
    levels: u32
    __resv2: u32
    start_addr: u64


VFIO_IOMMU_SPAPR_TCE_CREATE: Final = _IO(VFIO_TYPE, VFIO_BASE + 19)


@struct
class vfio_iommu_spapr_tce_remove(Argsz):
    """linux/vfio.h. start_addr: the window's first bus address."""

    argsz: u32
    flags: u32
    start_addr: u64


VFIO_IOMMU_SPAPR_TCE_REMOVE: Final = _IO(VFIO_TYPE, VFIO_BASE + 20)
