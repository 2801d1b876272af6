"""linux/vhost_types.h: the payloads that vhost-user takes over from it."""

import ctypes

from pyvfio.abi.types import struct, u32, u64


@struct
class vhost_vring_state(ctypes.Structure):
    """linux/vhost_types.h. num: the ring's size, base index or enabled state, as the message says."""

    index: u32
    num: u32


@struct
class vhost_vring_addr(ctypes.Structure):
    """linux/vhost_types.h. Addresses are the front end's virtual ones; log_guest_addr: guest-physical."""

    index: u32
    flags: u32
    desc_user_addr: u64
    used_user_addr: u64
    avail_user_addr: u64
    log_guest_addr: u64
