"""Window: a checked range of the guest's memory, which the guest may change at any moment."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from pyvfio.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Window:
    """size bytes at address of this process. Offsets are bytes, and the caller's to keep within size.

    load and store are one access of width bytes, which copies are not: what one side may read while the other writes
    it needs them. Good for as long as the region it lies in is mapped.
    """

    kernel: Kernel
    address: int
    size: int

    def load(self, offset: int, width: int) -> int:
        assert 0 <= offset <= self.size - width
        return self.kernel.load(self.address + offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        assert 0 <= offset <= self.size - width
        self.kernel.store(self.address + offset, width, value)

    def read(self, offset: int, size: int) -> bytes:
        """A copy, made once: the guest cannot change it after it was checked."""
        assert 0 <= offset <= self.size - size
        return ctypes.string_at(self.address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= self.size - len(data)
        ctypes.memmove(self.address + offset, data, len(data))
