"""The vhost-user protocol. Source: QEMU, docs/interop/vhost-user.rst; structs named as in QEMU's sources.

Both ends are on one machine: native byte order.
"""

import ctypes
from typing import Final

from pyvfio.abi.types import FlexibleArray, struct, u32, u64

VHOST_USER_VERSION: Final = 0x1
VHOST_USER_VERSION_MASK: Final = 0x3
VHOST_USER_REPLY_MASK: Final = 0x1 << 2
VHOST_USER_NEED_REPLY_MASK: Final = 0x1 << 3

VHOST_USER_VRING_IDX_MASK: Final = 0xFF
VHOST_USER_VRING_NOFD_MASK: Final = 0x1 << 8

VHOST_USER_F_PROTOCOL_FEATURES: Final = 30

VHOST_MEMORY_BASELINE_NREGIONS: Final = 8
VHOST_USER_MAX_CONFIG_SIZE: Final = 256

VHOST_USER_PROTOCOL_F_MQ: Final = 0
VHOST_USER_PROTOCOL_F_LOG_SHMFD: Final = 1
VHOST_USER_PROTOCOL_F_RARP: Final = 2
VHOST_USER_PROTOCOL_F_REPLY_ACK: Final = 3
VHOST_USER_PROTOCOL_F_MTU: Final = 4
VHOST_USER_PROTOCOL_F_BACKEND_REQ: Final = 5
VHOST_USER_PROTOCOL_F_CROSS_ENDIAN: Final = 6
VHOST_USER_PROTOCOL_F_CRYPTO_SESSION: Final = 7
VHOST_USER_PROTOCOL_F_PAGEFAULT: Final = 8
VHOST_USER_PROTOCOL_F_CONFIG: Final = 9
VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD: Final = 10
VHOST_USER_PROTOCOL_F_HOST_NOTIFIER: Final = 11
VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: Final = 12
VHOST_USER_PROTOCOL_F_RESET_DEVICE: Final = 13
VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS: Final = 14
VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: Final = 15
VHOST_USER_PROTOCOL_F_STATUS: Final = 16
VHOST_USER_PROTOCOL_F_XEN_MMAP: Final = 17
VHOST_USER_PROTOCOL_F_SHARED_OBJECT: Final = 18
VHOST_USER_PROTOCOL_F_DEVICE_STATE: Final = 19

# From the front end.
VHOST_USER_GET_FEATURES: Final = 1
VHOST_USER_SET_FEATURES: Final = 2
VHOST_USER_SET_OWNER: Final = 3
VHOST_USER_RESET_OWNER: Final = 4
VHOST_USER_SET_MEM_TABLE: Final = 5
VHOST_USER_SET_LOG_BASE: Final = 6
VHOST_USER_SET_LOG_FD: Final = 7
VHOST_USER_SET_VRING_NUM: Final = 8
VHOST_USER_SET_VRING_ADDR: Final = 9
VHOST_USER_SET_VRING_BASE: Final = 10
VHOST_USER_GET_VRING_BASE: Final = 11
VHOST_USER_SET_VRING_KICK: Final = 12
VHOST_USER_SET_VRING_CALL: Final = 13
VHOST_USER_SET_VRING_ERR: Final = 14
VHOST_USER_GET_PROTOCOL_FEATURES: Final = 15
VHOST_USER_SET_PROTOCOL_FEATURES: Final = 16
VHOST_USER_GET_QUEUE_NUM: Final = 17
VHOST_USER_SET_VRING_ENABLE: Final = 18
VHOST_USER_SEND_RARP: Final = 19
VHOST_USER_NET_SET_MTU: Final = 20
VHOST_USER_SET_BACKEND_REQ_FD: Final = 21
VHOST_USER_IOTLB_MSG: Final = 22
VHOST_USER_SET_VRING_ENDIAN: Final = 23
VHOST_USER_GET_CONFIG: Final = 24
VHOST_USER_SET_CONFIG: Final = 25
VHOST_USER_CREATE_CRYPTO_SESSION: Final = 26
VHOST_USER_CLOSE_CRYPTO_SESSION: Final = 27
VHOST_USER_POSTCOPY_ADVISE: Final = 28
VHOST_USER_POSTCOPY_LISTEN: Final = 29
VHOST_USER_POSTCOPY_END: Final = 30
VHOST_USER_GET_INFLIGHT_FD: Final = 31
VHOST_USER_SET_INFLIGHT_FD: Final = 32
VHOST_USER_GPU_SET_SOCKET: Final = 33
VHOST_USER_RESET_DEVICE: Final = 34
VHOST_USER_VRING_KICK: Final = 35
VHOST_USER_GET_MAX_MEM_SLOTS: Final = 36
VHOST_USER_ADD_MEM_REG: Final = 37
VHOST_USER_REM_MEM_REG: Final = 38
VHOST_USER_SET_STATUS: Final = 39
VHOST_USER_GET_STATUS: Final = 40
VHOST_USER_GET_SHARED_OBJECT: Final = 41
VHOST_USER_SET_DEVICE_STATE_FD: Final = 42
VHOST_USER_CHECK_DEVICE_STATE: Final = 43

# From the back end.
VHOST_USER_BACKEND_CONFIG_CHANGE_MSG: Final = 2


@struct
class VhostUserHeader(ctypes.Structure):
    """Before every payload. flags: version and reply bits; size: of the payload in bytes."""

    request: u32
    flags: u32
    size: u32


@struct
class VhostUserMemoryRegion(ctypes.Structure):
    """Where guest-physical memory is in the front end's address space, and in the file that comes with it. Bytes."""

    guest_phys_addr: u64
    memory_size: u64
    userspace_addr: u64
    mmap_offset: u64


@struct
class VhostUserMemory(ctypes.Structure):
    """Payload of SET_MEM_TABLE; one descriptor comes with each region."""

    nregions: u32
    padding: u32
    regions: FlexibleArray[VhostUserMemoryRegion]


@struct
class VhostUserMemRegMsg(ctypes.Structure):
    """Payload of ADD_MEM_REG and REM_MEM_REG."""

    padding: u64
    region: VhostUserMemoryRegion


@struct
class VhostUserConfig(ctypes.Structure):
    """Payload of GET_CONFIG and SET_CONFIG, before size bytes of the config space from offset."""

    offset: u32
    size: u32
    flags: u32
