"""Virtqueue: a split ring in guest memory, the driver's side. Source: virtio 1.3, 2.7."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.oracle.qtest import write

SIZE = 128
"""Descriptors; a request takes two of them."""

_BUFFER = 512
"""Room for a request; as much follows for its response."""
_NEXT, _WRITE = 1, 2


@dataclass(frozen=True, slots=True)
class Placed:
    """A request in the ring. response: where the device will write its answer; used: where its used element comes."""

    response: int
    used: int


class Virtqueue:
    """Requests are put into the ring as qtest commands. base: guest-physical, of 1 MiB that nobody else uses."""

    def __init__(self, base: int) -> None:
        self.descriptors = base
        self.available = base + 0x1000
        self.used = base + 0x2000
        self._buffers = base + 0x10000
        self._index = 0
        self._answered = 0

    @property
    def used_index(self) -> int:
        """Where the device counts what it has answered (16 bits)."""
        return self.used + 2

    def clear(self) -> list[str]:
        """Commands to start anew, as after a reset."""
        self._index = self._answered = 0
        return [write(self.descriptors, bytes(0x3000))]

    def answered(self, used_index: int) -> int:
        """How many requests have been answered since the last call; used_index: as the device counts now."""
        answered, self._answered = (used_index - self._answered) % 0x10000, used_index
        return answered

    def place(self, request: bytes, response_size: int) -> tuple[Placed, list[str]]:
        """Commands that make the next request available: one buffer for it and one for the response, if not empty."""
        slot = self._index % (SIZE // 2)
        first, buffer = 2 * slot, self._buffers + slot * 2 * _BUFFER
        parts = [(buffer, len(request), 0)] if request else []
        if response_size or not request:
            parts.append((buffer + _BUFFER, response_size, _WRITE))
        chain = b"".join(
            struct.pack("<QIHH", address, size, flags | (_NEXT if last > 1 else 0), first + 1)
            for last, (address, size, flags) in zip(range(len(parts), 0, -1), parts, strict=True)
        )
        commands = [
            write(buffer, request + bytes(2 * _BUFFER - len(request))),
            write(self.descriptors + 16 * first, chain),
            f"writew {self.available + 4 + 2 * (self._index % SIZE):#x} {first:#x}",
        ]
        used = self.used + 4 + 8 * (self._index % SIZE)
        self._index = (self._index + 1) % 0x10000
        commands.append(f"writew {self.available + 2:#x} {self._index:#x}")
        return Placed(buffer + _BUFFER, used), commands
