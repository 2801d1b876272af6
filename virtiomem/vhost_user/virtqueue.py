"""Virtqueue: what split and packed virtqueues have in common; and where and how the front end says that one is."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

from virtiomem.vhost_user.abi.virtio_ring import vring_desc
from virtiomem.vhost_user.chain import Chain, broken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.window import GuestWindow

DESCRIPTOR_SIZE = ctypes.sizeof(vring_desc)


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where a ring is. Addresses are the front end's.

    size: how many descriptors it has. descriptors: where they are. driver, device: where the areas are that the driver
    and the device write.
    """

    size: int
    descriptors: int
    driver: int
    device: int


@dataclass(frozen=True, slots=True)
class RingFeatures:
    """What the driver negotiated for a ring.

    indirect: VIRTIO_RING_F_INDIRECT_DESC. event_idx: VIRTIO_RING_F_EVENT_IDX.
    """

    indirect: bool
    event_idx: bool


class Virtqueue(Protocol):
    """A ring that is being served, by one thread at a time."""

    @property
    def base(self) -> int:
        """Where the ring stands, as VHOST_USER_GET_VRING_BASE tells it, so that another back end can go on there."""

    def base_after_process(self, last: tuple[int, int] | None) -> int:
        """Where the ring stands if a process that has ended has served it, and gave back what it took in order.

        last: base before the last chain that it answered, and base_after() that one; None: it has answered none.
        """

    def base_after(self, chain: Chain) -> int:
        """What base is when chain, which was taken last, is given back."""

    def pop(self) -> Chain | None:
        """Take the next chain that the driver has made available; None if there is none.

        Raises QueueBroken; the ring cannot be used any more then.
        """

    def push(self, chain: Chain, written: int) -> None:
        """Give chain back to the driver, with written bytes in it."""

    def must_notify(self) -> bool:
        """Whether the driver wants to be called for what was pushed since this was last asked."""

    def enable_kicks(self) -> None:
        """Ask the driver to kick for what it makes available from now on. Pop once more: it may just have done so."""


def indirect_table(memory: MemoryTable, address: int, size: int, features: RingFeatures) -> GuestWindow:
    """The table of size bytes at address that an indirect descriptor points to. Raises QueueBroken."""
    if not features.indirect:
        raise broken("an indirect descriptor, which was not negotiated")
    if not size or size % DESCRIPTOR_SIZE:
        raise broken(f"a table of indirect descriptors of {size} bytes")
    return memory.at(address, size)


def is_passed(event: int, old: int, new: int) -> bool:
    """Whether the way from old to new, modulo 65536, passes event. Source: linux/virtio_ring.h, vring_need_event."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
