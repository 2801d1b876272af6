"""Chain: the buffers of one request, as the driver describes them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from virtiomem.vhost_user.errors import QueueBroken
from virtiomem.vhost_user.memory_table import MemoryTable


@dataclass(slots=True)
class Chain:
    """id: the driver's name of it; limit: how many buffers it may have; slots: descriptors of the ring it takes.

    Addresses are guest-physical. A chain of which add() has accepted every buffer lies within the guest's memory.
    """

    memory: MemoryTable
    id: int
    limit: int
    slots: int = 1
    _count: int = 0
    _readable: list[tuple[int, int]] = field(default_factory=list)
    _writable: list[tuple[int, int]] = field(default_factory=list)

    @property
    def writable_size(self) -> int:
        """Bytes there are for the answer."""
        return sum(size for _, size in self._writable)

    def add(self, address: int, size: int, *, writable: bool) -> None:
        """The next buffer. Raises QueueBroken for one that no driver may make."""
        self._count += 1
        if self._count > self.limit:
            raise broken(f"a chain has more than the ring's {self.limit} buffers, or loops")
        if not size:
            raise broken("a buffer is empty")
        if self._writable and not writable:
            raise broken("a readable buffer follows a writable one")
        for _ in self.memory.pieces(address, size):
            pass
        (self._writable if writable else self._readable).append((address, size))

    def read(self, most: int) -> bytes:
        """What the driver wrote, up to most bytes of it."""
        data = bytearray()
        for address, size in self._readable:
            for piece in self.memory.pieces(address, min(size, most - len(data))):
                data += piece.read(0, piece.size)
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Answer: data is at most writable_size bytes."""
        for address, size in self._writable:
            for piece in self.memory.pieces(address, min(size, len(data))):
                piece.write(0, data[: piece.size])
                data = data[piece.size :]


def broken(meaning: str) -> QueueBroken:
    return QueueBroken(errno.EPROTO, "ring", meaning=f"the guest broke the ring: {meaning}")
