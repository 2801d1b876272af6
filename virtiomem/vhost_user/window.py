"""GuestWindow: a checked range of the guest's memory, which the guest may change at any moment."""

from __future__ import annotations

from dataclasses import dataclass

from virtiomem.vhost_user.guest_bytes import GuestBytes


@dataclass(frozen=True, slots=True)
class GuestWindow:
    """size bytes of the guest's memory, from start on in its region. It is usable while its region is mapped, and
    afterwards raises WindowReleased, ValueError or QueueBroken, as GuestBytes does where the memory is gone.

    Offsets are bytes; the caller keeps them within size. load() and store() are one access of width bytes, little
    endian and aligned to it, which read() and write() are not: what one side may read while the other writes needs
    load() and store(), and where their order matters memory_barrier().

    region: all of the region's bytes.
    """

    region: GuestBytes
    start: int
    size: int

    def load(self, offset: int, width: int) -> int:
        """The number that is at offset, read with one access of width bytes."""
        assert 0 <= offset <= self.size - width
        return self.region.load(self.start + offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        """Write value at offset with one access of width bytes."""
        assert 0 <= offset <= self.size - width
        self.region.store(self.start + offset, width, value)

    def read(self, offset: int, size: int) -> bytes:
        """A copy of size bytes at offset, made once: the guest cannot change it after it was checked."""
        assert 0 <= offset <= self.size - size
        return self.region.read(self.start + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Copy data to offset."""
        assert 0 <= offset <= self.size - len(data)
        self.region.write(self.start + offset, data)
