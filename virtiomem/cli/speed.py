"""How long it takes to populate memory on this host, measured with a sample."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pyvfio.kernel import Kernel
from pyvfio.memory import Memory, MemoryKind

SAMPLE = 64 << 20
"""Bytes: enough for a steady rate, and few enough to be populated in a moment."""


@dataclass(frozen=True, slots=True)
class PopulateSpeed:
    """How fast memory is populated. sample: bytes that were populated to measure it. rate: bytes a second."""

    sample: int
    rate: float

    def seconds(self, size: int) -> float:
        """How long size bytes take, if the host has them free."""
        return size / self.rate


def measure_populate(kernel: Kernel, kind: MemoryKind, page_size: int | None, limit: int) -> PopulateSpeed:
    """Populate a sample of such memory, of at most limit bytes and at least a page, and give it back.

    page_size: bytes of huge pages; None for the kind's own. Raises MemoryUnavailable if the host has none of it.
    """
    unit = page_size or 2 << 20
    size = max(min(SAMPLE, limit) // unit * unit, unit)
    with Memory.allocate(kind, size, page_size=page_size, kernel=kernel) as memory:
        start = time.perf_counter()
        memory.populate(0, size)
        return PopulateSpeed(size, size / (time.perf_counter() - start))
