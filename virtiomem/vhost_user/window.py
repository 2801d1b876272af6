"""Window: a checked range of the guest's memory, which the guest may change at any moment."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from pyvfio.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Window:
    """size bytes of the guest's memory, at address in this process. It is usable while its region is mapped.

    Offsets are bytes; the caller keeps them within size. load() and store() are one access of width bytes, which read()
    and write() are not: what one side may read while the other writes needs load() and store().

    kernel: what makes the accesses.
    """

    kernel: Kernel
    address: int
    size: int

    def load(self, offset: int, width: int) -> int:
        """The number that is at offset, read with one access of width bytes."""
        assert 0 <= offset <= self.size - width
        return self.kernel.load(self.address + offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        """Write value at offset with one access of width bytes."""
        assert 0 <= offset <= self.size - width
        self.kernel.store(self.address + offset, width, value)

    def read(self, offset: int, size: int) -> bytes:
        """A copy of size bytes at offset, made once: the guest cannot change it after it was checked."""
        assert 0 <= offset <= self.size - size
        return ctypes.string_at(self.address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Copy data to offset."""
        assert 0 <= offset <= self.size - len(data)
        ctypes.memmove(self.address + offset, data, len(data))
