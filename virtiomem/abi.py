"""linux/virtio_mem.h, up to Linux 7.3. Little-endian: virtio-mem has no legacy interface."""

import ctypes
from typing import Annotated, Final

from pyvfio.abi.types import struct, u16, u64

le16 = u16
le64 = u64

VIRTIO_MEM_F_ACPI_PXM: Final = 0
VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: Final = 1
VIRTIO_MEM_F_PERSISTENT_SUSPEND: Final = 2

VIRTIO_MEM_REQ_PLUG: Final = 0
VIRTIO_MEM_REQ_UNPLUG: Final = 1
VIRTIO_MEM_REQ_UNPLUG_ALL: Final = 2
VIRTIO_MEM_REQ_STATE: Final = 3


@struct
class virtio_mem_req_plug(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. addr: guest-physical bytes; nb_blocks: blocks of the device's block_size."""

    addr: le64
    nb_blocks: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint16], 3]


@struct
class virtio_mem_req_unplug(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. addr: guest-physical bytes; nb_blocks: blocks of the device's block_size."""

    addr: le64
    nb_blocks: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint16], 3]


@struct
class virtio_mem_req_state(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. addr: guest-physical bytes; nb_blocks: blocks of the device's block_size."""

    addr: le64
    nb_blocks: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint16], 3]


@struct
class virtio_mem_req_u(ctypes.LittleEndianUnion):
    """linux/virtio_mem.h. The union u of virtio_mem_req; type says which member is meant."""

    plug: virtio_mem_req_plug
    unplug: virtio_mem_req_unplug
    state: virtio_mem_req_state


@struct
class virtio_mem_req(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. What the guest asks. type: VIRTIO_MEM_REQ_*; u: its arguments."""

    type: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint16], 3]
    u: virtio_mem_req_u


VIRTIO_MEM_RESP_ACK: Final = 0
VIRTIO_MEM_RESP_NACK: Final = 1
VIRTIO_MEM_RESP_BUSY: Final = 2
VIRTIO_MEM_RESP_ERROR: Final = 3

VIRTIO_MEM_STATE_PLUGGED: Final = 0
VIRTIO_MEM_STATE_UNPLUGGED: Final = 1
VIRTIO_MEM_STATE_MIXED: Final = 2


@struct
class virtio_mem_resp_state(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. The answer to an acknowledged VIRTIO_MEM_REQ_STATE. state: VIRTIO_MEM_STATE_*."""

    state: le16


@struct
class virtio_mem_resp_u(ctypes.LittleEndianUnion):
    """linux/virtio_mem.h. The union u of virtio_mem_resp."""

    state: virtio_mem_resp_state


@struct
class virtio_mem_resp(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. What the device answers. type: VIRTIO_MEM_RESP_*; u: the answer to STATE."""

    type: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint16], 3]
    u: virtio_mem_resp_u


@struct
class virtio_mem_config(ctypes.LittleEndianStructure):
    """linux/virtio_mem.h. The device's config space; addr: guest-physical; it and all sizes: bytes,
    multiples of block_size.
    """

    block_size: le64
    node_id: le16
    padding: Annotated[ctypes.Array[ctypes.c_uint8], 6]
    addr: le64
    region_size: le64
    usable_region_size: le64
    plugged_size: le64
    requested_size: le64
