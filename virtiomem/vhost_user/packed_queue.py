"""PackedQueue: a packed virtqueue. Source: virtio 1.3, 2.8."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

from pyvfio.abi.types import offset_of
from pyvfio.kernel import memory_barrier
from virtiomem.vhost_user.abi.virtio_ring import (
    VRING_DESC_ALIGN_SIZE,
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    VRING_PACKED_DESC_F_AVAIL,
    VRING_PACKED_DESC_F_USED,
    VRING_PACKED_EVENT_F_WRAP_CTR,
    VRING_PACKED_EVENT_FLAG_DESC,
    VRING_PACKED_EVENT_FLAG_DISABLE,
    VRING_PACKED_EVENT_FLAG_ENABLE,
    vring_packed_desc,
    vring_packed_desc_event,
)
from virtiomem.vhost_user.chain import Chain, broken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.virtqueue import DESCRIPTOR_SIZE, RingFeatures, RingLayout, indirect_table, is_passed
from virtiomem.vhost_user.window import GuestWindow

_LENGTH, _FLAGS = offset_of(vring_packed_desc, "len"), offset_of(vring_packed_desc, "flags")
_EVENT_SIZE = ctypes.sizeof(vring_packed_desc_event)
_EVENT_FLAGS = offset_of(vring_packed_desc_event, "flags")
_AVAIL, _USED = 1 << VRING_PACKED_DESC_F_AVAIL, 1 << VRING_PACKED_DESC_F_USED
_WRAP = 1 << VRING_PACKED_EVENT_F_WRAP_CTR


@dataclass(slots=True)
class _Position:
    """A place in a ring of size descriptors. index: of the descriptor. wrapped: the wrap counter, true at first."""

    size: int
    index: int
    wrapped: bool

    @classmethod
    def decode(cls, size: int, value: int) -> _Position:
        """The place that VHOST_USER_SET_VRING_BASE gives as value. Raises QueueBroken if the ring has no such place."""
        index = value & ~_WRAP & 0xFFFF
        if index >= size:
            raise broken(f"it stands at descriptor {index} of {size}")
        return cls(size, index, bool(value & _WRAP))

    @property
    def encoded(self) -> int:
        """The place as VHOST_USER_GET_VRING_BASE tells it."""
        return self.index | (_WRAP if self.wrapped else 0)

    def advance(self, count: int) -> None:
        """Go on by count descriptors."""
        self.index += count
        if self.index >= self.size:
            self.index -= self.size
            self.wrapped = not self.wrapped


class PackedQueue:
    """A packed Virtqueue. Indexes, addresses and lengths that the driver wrote are checked after they were copied."""

    def __init__(self, memory: MemoryTable, layout: RingLayout, features: RingFeatures, base: int) -> None:
        """base: index and wrap counter of the next available descriptor, and in the upper half of the next used one.

        Raises QueueBroken if the ring is not in the guest's memory.
        """
        if layout.descriptors % VRING_DESC_ALIGN_SIZE or (layout.driver | layout.device) % _EVENT_SIZE:
            raise broken("an area of it is not aligned")
        self._memory = memory
        self._size = layout.size
        self._features = features
        self._ring = memory.at_user_address(layout.descriptors, DESCRIPTOR_SIZE * layout.size)
        self._driver = memory.at_user_address(layout.driver, _EVENT_SIZE)
        self._device = memory.at_user_address(layout.device, _EVENT_SIZE)
        self._next_avail = _Position.decode(layout.size, base & 0xFFFF)
        self._next_used = _Position.decode(layout.size, base >> 16)
        self._pushed = 0

    @property
    def base(self) -> int:
        return self._next_avail.encoded | self._next_used.encoded << 16

    def base_after_process(self, last: tuple[int, int] | None) -> int:
        if last is None:
            return self.base
        before, after = last
        used = _Position.decode(self._size, before >> 16)
        flags = self._ring.load(DESCRIPTOR_SIZE * used.index + _FLAGS, 2)
        # A chain that fills the ring has the next one in its place when it is given back, with other flags again.
        is_waiting = bool(flags & _AVAIL) == used.wrapped != bool(flags & _USED)
        return before if is_waiting else after

    def base_after(self, chain: Chain) -> int:
        used = replace(self._next_used)
        used.advance(chain.slots)
        return self._next_avail.encoded | used.encoded << 16

    def pop(self) -> Chain | None:
        flags = self._ring.load(DESCRIPTOR_SIZE * self._next_avail.index + _FLAGS, 2)
        if bool(flags & _AVAIL) != self._next_avail.wrapped or bool(flags & _USED) == self._next_avail.wrapped:
            return None
        # The driver made the rest of the chain before these flags: read it after them.
        memory_barrier()
        chain = self._chain()
        self._next_avail.advance(chain.slots)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        position = self._next_used
        offset = DESCRIPTOR_SIZE * position.index
        flags = (_AVAIL | _USED if position.wrapped else 0) | (VRING_DESC_F_WRITE if written else 0)
        used = vring_packed_desc(len=written, id=chain.id, flags=flags)
        # The answer is there before the flags say so. They and what is beside them are one store: a process that is
        # killed here leaves a chain that the next one finds as the driver made it, or given back.
        memory_barrier()
        self._ring.store(offset + _LENGTH, 8, int.from_bytes(bytes(used)[_LENGTH:], "little"))
        position.advance(chain.slots)
        self._pushed += chain.slots

    def must_notify(self) -> bool:
        pushed, self._pushed = self._pushed, 0
        if not pushed:
            return False
        # Look whether the driver wants a call after it can see the flags, as it looks at them after it wanted one:
        # otherwise both may miss the other's store. Processors with ordered stores need this one too.
        memory_barrier()
        flags = self._driver.load(_EVENT_FLAGS, 2) & 0x3
        if flags == VRING_PACKED_EVENT_FLAG_DISABLE:
            return False
        if flags != VRING_PACKED_EVENT_FLAG_DESC or not self._features.event_idx:
            return True
        # The driver wrote the event before the flags that refer to it.
        memory_barrier()
        event = self._driver.load(0, 2)
        new = self._next_used.index
        # The wrap counter is made part of the index: an event of the other round lies a ring's size before.
        passed = event & ~_WRAP & 0xFFFF
        if bool(event & _WRAP) != self._next_used.wrapped:
            passed -= self._size
        return is_passed(passed, new - pushed, new)

    def enable_kicks(self) -> None:
        if self._features.event_idx:
            self._device.store(0, 2, self._next_avail.encoded)
            memory_barrier()
            self._device.store(_EVENT_FLAGS, 2, VRING_PACKED_EVENT_FLAG_DESC)
        else:
            self._device.store(_EVENT_FLAGS, 2, VRING_PACKED_EVENT_FLAG_ENABLE)
        # Look for more after the driver can see that a kick is wanted.
        memory_barrier()

    def _chain(self) -> Chain:
        """Read the chain that begins at the next available descriptor. Raises QueueBroken."""
        chain = Chain(self._memory, 0, self._size)
        for slot in range(self._size):
            index = (self._next_avail.index + slot) % self._size
            descriptor = _descriptor(self._ring, index)
            follows = bool(descriptor.flags & VRING_DESC_F_NEXT)
            if descriptor.flags & VRING_DESC_F_INDIRECT:
                if slot or follows:
                    raise broken("an indirect descriptor within a chain")
                self._add_indirect(chain, descriptor)
            else:
                chain.add(descriptor.addr, descriptor.len, writable=bool(descriptor.flags & VRING_DESC_F_WRITE))
            if not follows:
                # The last descriptor has the buffer's id.
                chain.id, chain.slots = descriptor.id, slot + 1
                return chain
        raise broken("a chain has no end")

    def _add_indirect(self, chain: Chain, descriptor: vring_packed_desc) -> None:
        table = indirect_table(self._memory, descriptor.addr, descriptor.len, self._features)
        for index in range(table.size // DESCRIPTOR_SIZE):
            entry = _descriptor(table, index)
            if entry.flags & VRING_DESC_F_INDIRECT:
                raise broken("an indirect descriptor within a table")
            chain.add(entry.addr, entry.len, writable=bool(entry.flags & VRING_DESC_F_WRITE))


def _descriptor(table: GuestWindow, index: int) -> vring_packed_desc:
    return vring_packed_desc.from_buffer_copy(table.read(DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE))
