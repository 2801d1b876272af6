"""How the device answers a request, and why it refuses one."""

from __future__ import annotations

import enum
from typing import TypeAlias

from virtiomem import abi


class ResponseType(enum.IntEnum):
    """The code that the guest reads. NACK: try again when the config allows it. BUSY: try again later. ERROR: the
    request made no sense.

    Linux tries again at once after NACK, after a minute after BUSY, and gives the device up after ERROR.
    """

    ACK = abi.VIRTIO_MEM_RESP_ACK
    NACK = abi.VIRTIO_MEM_RESP_NACK
    BUSY = abi.VIRTIO_MEM_RESP_BUSY
    ERROR = abi.VIRTIO_MEM_RESP_ERROR


class ErrorReason(enum.Enum):
    """Why a request was answered ERROR. The guest reads one code for all of them."""

    MISALIGNED = "misaligned"
    """The address is not a multiple of the block size."""
    NO_BLOCKS = "no blocks"
    """The request names no block."""
    NOT_USABLE = "not usable"
    """Some of the blocks lie outside the usable region."""
    PLUGGED = "plugged"
    """Some of the blocks to plug are plugged already."""
    UNPLUGGED = "unplugged"
    """Some of the blocks to unplug are not plugged."""

    @property
    def response(self) -> ResponseType:
        """ERROR."""
        return ResponseType.ERROR


class NackReason(enum.Enum):
    """Why a request was answered NACK. The guest reads one code for all of them."""

    REQUESTED_SIZE = "requested size"
    """More would be plugged than is requested."""

    @property
    def response(self) -> ResponseType:
        """NACK."""
        return ResponseType.NACK


class BusyReason(enum.Enum):
    """Why a request was answered BUSY. The guest reads one code for all of them."""

    MIGRATING = "migrating"
    """Blocks keep their state while the virtual machine migrates."""
    NO_MEMORY = "no memory"
    """The host lacks the memory to populate the blocks, or to map them."""
    MAPPING_REFUSED = "mapping refused"
    """A listener refused the blocks."""
    NO_MAPPINGS_LEFT = "no mappings left"
    """An address space holds as many mappings as it may."""
    MEMLOCK_EXCEEDED = "memlock exceeded"
    """Pinning the blocks would exceed RLIMIT_MEMLOCK."""
    LISTENER_DIVERGED = "listener diverged"
    """A listener holds something else than what is plugged, and could not be brought back."""
    DISCARD_FAILED = "discard failed"
    """A listener would not let go of the blocks, or the host would not take their memory back."""
    NOT_RECORDED = "not recorded"
    """The change could not be recorded where it outlives the process."""
    STOPPING = "stopping"
    """Whoever serves the device is about to end."""
    NOT_ATTACHED = "not attached"
    """The memory that is attached is not the guest's that asks, or none is. The device was not asked."""

    @property
    def response(self) -> ResponseType:
        """BUSY."""
        return ResponseType.BUSY


RefusalReason: TypeAlias = ErrorReason | NackReason | BusyReason
"""Why a request was not acknowledged; its response says with which code."""
