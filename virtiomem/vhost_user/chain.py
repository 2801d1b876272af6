"""Chain: the buffers of a request, as the driver describes them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from virtiomem.vhost_user.errors import QueueBroken
from virtiomem.vhost_user.memory_table import MemoryTable


@dataclass(slots=True)
class Chain:
    """The buffers of a request. Their addresses are guest-physical, and add() accepts only what the guest's memory has.

    memory: the guest's. id: how the driver names the chain. limit: how many buffers it may have. slots: how many
    descriptors of the ring it takes.
    """

    memory: MemoryTable
    id: int
    limit: int
    slots: int = 1
    _count: int = 0
    _readable: list[tuple[int, int]] = field(default_factory=list)
    _writable: list[tuple[int, int]] = field(default_factory=list)

    @property
    def buffers(self) -> int:
        """How many there are."""
        return self._count

    @property
    def writable_size(self) -> int:
        """How many bytes there are for the answer."""
        return sum(size for _, size in self._writable)

    def add(self, address: int, size: int, *, writable: bool) -> None:
        """Append a buffer of size bytes. Raises QueueBroken for one that no driver may make."""
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
        """The request: what the driver wrote, at most as many bytes as most says. Raises QueueBroken."""
        data = bytearray()
        for address, size in self._readable:
            for piece in self.memory.pieces(address, min(size, most - len(data))):
                data += piece.read(0, piece.size)
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Write the answer, at most writable_size bytes. Raises QueueBroken."""
        for address, size in self._writable:
            for piece in self.memory.pieces(address, min(size, len(data))):
                piece.write(0, data[: piece.size])
                data = data[piece.size :]


def broken(meaning: str) -> QueueBroken:
    """A QueueBroken with this meaning."""
    return QueueBroken(errno.EPROTO, "ring", meaning=f"the guest broke the ring: {meaning}")
