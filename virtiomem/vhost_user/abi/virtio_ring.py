"""linux/virtio_ring.h, up to Linux 7.3: split and packed rings. Little-endian: virtio-mem has no legacy interface."""

import ctypes
from typing import Final

from pyvfio.abi.types import FlexibleArray, struct, u16, u32, u64

VRING_DESC_F_NEXT: Final = 1
VRING_DESC_F_WRITE: Final = 2
VRING_DESC_F_INDIRECT: Final = 4

VRING_PACKED_DESC_F_AVAIL: Final = 7
VRING_PACKED_DESC_F_USED: Final = 15

VRING_USED_F_NO_NOTIFY: Final = 1
VRING_AVAIL_F_NO_INTERRUPT: Final = 1

VRING_PACKED_EVENT_FLAG_ENABLE: Final = 0x0
VRING_PACKED_EVENT_FLAG_DISABLE: Final = 0x1
VRING_PACKED_EVENT_FLAG_DESC: Final = 0x2
VRING_PACKED_EVENT_F_WRAP_CTR: Final = 15

VIRTIO_RING_F_INDIRECT_DESC: Final = 28
VIRTIO_RING_F_EVENT_IDX: Final = 29

VRING_AVAIL_ALIGN_SIZE: Final = 2
VRING_USED_ALIGN_SIZE: Final = 4
VRING_DESC_ALIGN_SIZE: Final = 16


@struct
class vring_desc(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. addr: guest-physical; len: bytes; next: index of the chain's next descriptor."""

    addr: u64
    len: u32
    flags: u16
    next: u16


@struct
class vring_avail(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. idx: where the driver puts the next entry of ring, modulo the queue size."""

    flags: u16
    idx: u16
    ring: FlexibleArray[ctypes.c_uint16]


@struct
class vring_used_elem(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. id: first descriptor of the chain; len: bytes written into it."""

    id: u32
    len: u32


@struct
class vring_used(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. idx: where the device puts the next entry of ring, modulo the queue size."""

    flags: u16
    idx: u16
    ring: FlexibleArray[vring_used_elem]


@struct
class vring_packed_desc_event(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. off_wrap: offset in the ring, and its wrap counter in bit 15; flags: when to notify."""

    off_wrap: u16
    flags: u16


@struct
class vring_packed_desc(ctypes.LittleEndianStructure):
    """linux/virtio_ring.h. addr: guest-physical; len: bytes; id: the driver's name of the buffer."""

    addr: u64
    len: u32
    id: u16
    flags: u16
