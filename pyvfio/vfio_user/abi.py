"""The vfio-user protocol, version 0.0. Source: docs/interop/vfio-user.rst in QEMU; include/vfio-user.h in libvfio-user.

Numbers are in the byte order of the host, sizes and addresses in bytes. What a message has in common with an ioctl has
the ioctl's struct, which is in pyvfio.abi.vfio: vfio_region_info, vfio_irq_info, vfio_irq_set.
"""

import ctypes
from typing import Final

from pyvfio.abi.types import Argsz, struct, u16, u32, u64

VFIO_USER_VERSION: Final = 1
VFIO_USER_DMA_MAP: Final = 2
VFIO_USER_DMA_UNMAP: Final = 3
VFIO_USER_DEVICE_GET_INFO: Final = 4
VFIO_USER_DEVICE_GET_REGION_INFO: Final = 5
VFIO_USER_DEVICE_GET_REGION_IO_FDS: Final = 6
VFIO_USER_DEVICE_GET_IRQ_INFO: Final = 7
VFIO_USER_DEVICE_SET_IRQS: Final = 8
VFIO_USER_REGION_READ: Final = 9
VFIO_USER_REGION_WRITE: Final = 10
VFIO_USER_DMA_READ: Final = 11
VFIO_USER_DMA_WRITE: Final = 12
VFIO_USER_DEVICE_RESET: Final = 13
VFIO_USER_REGION_WRITE_MULTI: Final = 15
VFIO_USER_DEVICE_FEATURE: Final = 16
VFIO_USER_MIG_DATA_READ: Final = 17
VFIO_USER_MIG_DATA_WRITE: Final = 18

VFIO_USER_F_TYPE_COMMAND: Final = 0
VFIO_USER_F_TYPE_REPLY: Final = 1
VFIO_USER_F_TYPE_MASK: Final = 0xF
VFIO_USER_F_NO_REPLY: Final = 1 << 4
VFIO_USER_F_ERROR: Final = 1 << 5

VFIO_USER_DEFAULT_MAX_TRANSFER_SIZE: Final = 1 << 20


@struct
class vfio_user_header(ctypes.Structure):
    """Before every message. msg_size: of the message with this header; flags: VFIO_USER_F_*; error_no: of a reply with
    VFIO_USER_F_ERROR, an errno or 0."""

    msg_id: u16
    cmd: u16
    msg_size: u32
    flags: u32
    error_no: u32


@struct
class vfio_user_version(ctypes.Structure):
    """Before the capabilities, which are JSON and end with a zero byte, or are not there."""

    major: u16
    minor: u16


@struct
class vfio_user_device_info(Argsz):
    """VFIO_USER_DEVICE_GET_INFO. flags: VFIO_DEVICE_FLAGS_*."""

    argsz: u32
    flags: u32
    num_regions: u32
    num_irqs: u32


VFIO_USER_F_DMA_REGION_READ: Final = 1 << 0
VFIO_USER_F_DMA_REGION_WRITE: Final = 1 << 1


@struct
class vfio_user_dma_map(Argsz):
    """VFIO_USER_DMA_MAP. offset: in the file whose descriptor comes along, if one does; addr: the device's."""

    argsz: u32
    flags: u32
    offset: u64
    addr: u64
    size: u64


@struct
class vfio_user_dma_unmap(Argsz):
    """VFIO_USER_DMA_UNMAP, and its reply."""

    argsz: u32
    flags: u32
    addr: u64
    size: u64


@struct
class vfio_user_region_access(ctypes.Structure):
    """VFIO_USER_REGION_READ and VFIO_USER_REGION_WRITE, and their replies. count bytes of data follow where there are
    any."""

    offset: u64
    region: u32
    count: u32


@struct
class vfio_user_dma_region_access(ctypes.Structure):
    """VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE, and their replies. count bytes of data follow where there are any."""

    addr: u64
    count: u64
