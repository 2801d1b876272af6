"""What split and packed virtqueues have in common, and where the front end says that one is."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

from virtiomem.vhost_user.abi.virtio_ring import vring_desc
from virtiomem.vhost_user.chain import Chain, broken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.window import Window

DESCRIPTOR_SIZE = ctypes.sizeof(vring_desc)


@dataclass(frozen=True, slots=True)
class RingLayout:
    """size: in descriptors. The addresses of descriptors, the driver's and the device's area are the front end's."""

    size: int
    descriptors: int
    driver: int
    device: int


@dataclass(frozen=True, slots=True)
class RingFeatures:
    """What the driver negotiated: VIRTIO_RING_F_INDIRECT_DESC and VIRTIO_RING_F_EVENT_IDX."""

    indirect: bool
    event_idx: bool


class Virtqueue(Protocol):
    """A ring that is being served. One thread at a time."""

    @property
    def base(self) -> int:
        """Where it stands, as VHOST_USER_SET_VRING_BASE has it, so that another back end can go on."""

    def pop(self) -> Chain | None:
        """The next chain the driver has made available. Raises QueueBroken, and can then be used no more."""

    def push(self, chain: Chain, written: int) -> None:
        """Give chain back, with written bytes in it."""

    def must_notify(self) -> bool:
        """Whether the driver wants to hear of what was pushed since this was last asked."""

    def enable_kicks(self) -> None:
        """Ask the driver to kick for what it makes available from now on; pop once more, for it may just have."""


def indirect_table(memory: MemoryTable, address: int, size: int, features: RingFeatures) -> Window:
    """The table that an indirect descriptor points to. Raises QueueBroken."""
    if not features.indirect:
        raise broken("an indirect descriptor, which was not negotiated")
    if not size or size % DESCRIPTOR_SIZE:
        raise broken(f"a table of indirect descriptors of {size} bytes")
    return memory.at(address, size)


def is_passed(event: int, old: int, new: int) -> bool:
    """Whether going from old to new, modulo 65536, has passed event. Source: vring_need_event."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
