"""linux/vfio.h: VFIO_DEVICE_FEATURE and the data of every feature; migration."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, FlexibleArray, s32, struct, u32, u64
from pyvfio.abi.vfio.container import VFIO_BASE, VFIO_TYPE


@struct
class vfio_device_feature(Argsz):
    """linux/vfio.h. flags: the feature's index and GET, SET or PROBE; data: the feature's struct,
    counted in argsz.
    """

    argsz: u32
    flags: u32
    data: FlexibleArray[ctypes.c_uint8]


VFIO_DEVICE_FEATURE_MASK: Final = 0xFFFF
VFIO_DEVICE_FEATURE_GET: Final = 1 << 16
VFIO_DEVICE_FEATURE_SET: Final = 1 << 17
VFIO_DEVICE_FEATURE_PROBE: Final = 1 << 18

VFIO_DEVICE_FEATURE: Final = _IO(VFIO_TYPE, VFIO_BASE + 17)

# SET: 16 bytes of UUID.
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Final = 0


@struct
class vfio_device_feature_migration(ctypes.Structure):
    """linux/vfio.h. GET: the kinds of migration the device can do."""

    flags: u64


VFIO_MIGRATION_STOP_COPY: Final = 1 << 0
VFIO_MIGRATION_P2P: Final = 1 << 1
VFIO_MIGRATION_PRE_COPY: Final = 1 << 2

VFIO_DEVICE_FEATURE_MIGRATION: Final = 1


@struct
class vfio_device_feature_mig_state(ctypes.Structure):
    """linux/vfio.h. GET and SET: the migration state; data_fd: the stream of the new state, -1 for none."""

    device_state: u32
    data_fd: s32


VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: Final = 2

# enum vfio_device_mig_state
VFIO_DEVICE_STATE_ERROR: Final = 0
VFIO_DEVICE_STATE_STOP: Final = 1
VFIO_DEVICE_STATE_RUNNING: Final = 2
VFIO_DEVICE_STATE_STOP_COPY: Final = 3
VFIO_DEVICE_STATE_RESUMING: Final = 4
VFIO_DEVICE_STATE_RUNNING_P2P: Final = 5
VFIO_DEVICE_STATE_PRE_COPY: Final = 6
VFIO_DEVICE_STATE_PRE_COPY_P2P: Final = 7
VFIO_DEVICE_STATE_NR: Final = 8


@struct
class vfio_precopy_info(Argsz):
    """linux/vfio.h. Of the migration data fd, out: estimates of what is left to read, bytes."""

    argsz: u32
    flags: u32
    initial_bytes: u64
    dirty_bytes: u64


VFIO_PRECOPY_INFO_REINIT: Final = 1 << 0

VFIO_MIG_GET_PRECOPY_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 21)

VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Final = 3


@struct
class vfio_device_low_power_entry_with_wakeup(ctypes.Structure):
    """linux/vfio.h. SET: wakeup_eventfd is signalled when the host resumes the device."""

    wakeup_eventfd: s32
    reserved: u32


VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Final = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Final = 5


@struct
class vfio_device_feature_dma_logging_control(ctypes.Structure):
    """linux/vfio.h. SET: page_size: bytes, a hint; ranges: address of num_ranges
    vfio_device_feature_dma_logging_range.
    """

    page_size: u64
    num_ranges: u32
    __reserved: u32
    ranges: u64


@struct
class vfio_device_feature_dma_logging_range(ctypes.Structure):
    """linux/vfio.h. length bytes of device addresses from iova."""

    iova: u64
    length: u64


VFIO_DEVICE_FEATURE_DMA_LOGGING_START: Final = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Final = 7


@struct
class vfio_device_feature_dma_logging_report(ctypes.Structure):
    """linux/vfio.h. GET: bitmap: address of little-endian 64-bit words, a bit for each page_size
    bytes from iova.
    """

    iova: u64
    length: u64
    page_size: u64
    bitmap: u64


VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Final = 8


@struct
class vfio_device_feature_mig_data_size(ctypes.Structure):
    """linux/vfio.h. GET: estimated bytes of the STOP_COPY stream."""

    stop_copy_length: u64


VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: Final = 9


@struct
class vfio_device_feature_bus_master(ctypes.Structure):
    """linux/vfio.h. SET: op."""

    op: u32


VFIO_DEVICE_FEATURE_CLEAR_MASTER: Final = 0
VFIO_DEVICE_FEATURE_SET_MASTER: Final = 1

VFIO_DEVICE_FEATURE_BUS_MASTER: Final = 10

VFIO_DEVICE_FEATURE_DMA_BUF: Final = 11


@struct
class vfio_region_dma_range(ctypes.Structure):
    """linux/vfio.h. offset in the region and length, bytes."""

    offset: u64
    length: u64


@struct
class vfio_device_feature_dma_buf(ctypes.Structure):
    """linux/vfio.h. GET: a dma-buf of nr_ranges parts of a region; its fd is the ioctl's result."""

    region_index: u32
    open_flags: u32
    flags: u32
    nr_ranges: u32
    dma_ranges: FlexibleArray[vfio_region_dma_range]


# SET, without data: VFIO_MIG_GET_PRECOPY_INFO may set VFIO_PRECOPY_INFO_REINIT.
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Final = 12


@struct
class vfio_device_feature_zpci_err(ctypes.Structure):
    """linux/vfio.h. GET, s390: data: address of a buffer for the pending PCI error."""

    data: u64


VFIO_DEVICE_FEATURE_ZPCI_ERROR: Final = 13
