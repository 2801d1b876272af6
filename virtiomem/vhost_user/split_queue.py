"""SplitQueue: a split virtqueue. Source: virtio 1.3, 2.7."""

from __future__ import annotations

from pyvfio.abi.types import offset_of
from pyvfio.kernel import memory_barrier
from virtiomem.vhost_user.abi.virtio_ring import (
    VRING_AVAIL_ALIGN_SIZE,
    VRING_AVAIL_F_NO_INTERRUPT,
    VRING_DESC_ALIGN_SIZE,
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    VRING_USED_ALIGN_SIZE,
    vring_avail,
    vring_desc,
    vring_used,
    vring_used_elem,
)
from virtiomem.vhost_user.chain import Chain, broken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.virtqueue import DESCRIPTOR_SIZE, RingFeatures, RingLayout, indirect_table, is_passed

_AVAIL_IDX, _AVAIL_RING = offset_of(vring_avail, "idx"), offset_of(vring_avail, "ring")
_USED_IDX, _USED_RING = offset_of(vring_used, "idx"), offset_of(vring_used, "ring")
_ENTRY, _ELEMENT, _EVENT = 2, 8, 2


class SplitQueue:
    """A split Virtqueue. Indexes, addresses and lengths that the driver wrote are checked after they were copied."""

    def __init__(self, memory: MemoryTable, layout: RingLayout, features: RingFeatures, base: int) -> None:
        """base: the index of the next available entry. Raises QueueBroken if the ring is not in the guest's memory."""
        size = layout.size
        self._memory = memory
        self._size = size
        self._features = features
        for address, alignment in (
            (layout.descriptors, VRING_DESC_ALIGN_SIZE),
            (layout.driver, VRING_AVAIL_ALIGN_SIZE),
            (layout.device, VRING_USED_ALIGN_SIZE),
        ):
            if address % alignment:
                raise broken(f"an area of it is at {address:#x}, no multiple of {alignment}")
        self._descriptors = memory.at_user_address(layout.descriptors, DESCRIPTOR_SIZE * size)
        self._avail = memory.at_user_address(layout.driver, _AVAIL_RING + _ENTRY * size + _EVENT)
        self._used = memory.at_user_address(layout.device, _USED_RING + _ELEMENT * size + _EVENT)
        self._next_avail = base & 0xFFFF
        self._next_used = self._notified = self._used.load(_USED_IDX, 2)

    @property
    def base(self) -> int:
        return self._next_avail

    def base_after_process(self, last: tuple[int, int] | None) -> int:
        del last
        return self._next_used

    def base_after(self, chain: Chain) -> int:
        del chain
        return self._next_avail

    def pop(self) -> Chain | None:
        available = (self._avail.load(_AVAIL_IDX, 2) - self._next_avail) & 0xFFFF
        if not available:
            return None
        if available > self._size:
            raise broken(f"{available} chains available in a ring of {self._size}")
        # The driver wrote the entry and its descriptors before the index: read them after it [2.7.13].
        memory_barrier()
        head = self._avail.load(_AVAIL_RING + _ENTRY * (self._next_avail % self._size), 2)
        chain = self._chain(head)
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        return chain

    def push(self, chain: Chain, written: int) -> None:
        element = bytes(vring_used_elem(id=chain.id, len=written))
        self._used.write(_USED_RING + _ELEMENT * (self._next_used % self._size), element)
        self._next_used = (self._next_used + 1) & 0xFFFF
        # The answer and the element are there before the index says so [2.7.8].
        memory_barrier()
        self._used.store(_USED_IDX, 2, self._next_used)

    def must_notify(self) -> bool:
        old, self._notified = self._notified, self._next_used
        if old == self._next_used:
            return False
        # Look whether the driver wants a call after it can see the index, as it looks at the index after it wanted one:
        # otherwise both may miss the other's store. Processors with ordered stores need this one too [2.7.7.2].
        memory_barrier()
        if self._features.event_idx:
            event = self._avail.load(_AVAIL_RING + _ENTRY * self._size, 2)
            return is_passed(event, old, self._next_used)
        return not self._avail.load(0, 2) & VRING_AVAIL_F_NO_INTERRUPT

    def enable_kicks(self) -> None:
        if self._features.event_idx:
            self._used.store(_USED_RING + _ELEMENT * self._size, 2, self._next_avail)
            # Look for more after the driver can see that a kick is wanted [2.7.10].
            memory_barrier()

    def _chain(self, head: int) -> Chain:
        chain = Chain(self._memory, head, self._size)
        table, count, index = self._descriptors, self._size, head
        while True:
            if index >= count:
                raise broken(f"descriptor {index} of {count}")
            descriptor = vring_desc.from_buffer_copy(table.read(DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE))
            if descriptor.flags & VRING_DESC_F_INDIRECT:
                if table is not self._descriptors or descriptor.flags & VRING_DESC_F_NEXT:
                    raise broken("an indirect descriptor within a table, or with one that follows it")
                table = indirect_table(self._memory, descriptor.addr, descriptor.len, self._features)
                count, index = table.size // DESCRIPTOR_SIZE, 0
                continue
            chain.add(descriptor.addr, descriptor.len, writable=bool(descriptor.flags & VRING_DESC_F_WRITE))
            if not descriptor.flags & VRING_DESC_F_NEXT:
                return chain
            index = descriptor.next
