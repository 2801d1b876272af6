"""The machine that the tests of tests/every_kernel run on, simulated or real."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pyvfio import Kernel, Memory, MemoryKind
from pyvfio.sim import SimKernel

MEBIBYTE = 1 << 20
IOVA = 0x1_0000_0000
MOCK_IOVA = 0x100_0000
"""The first address that the IOMMU of iommufd's test devices translates."""

MEMORY_KINDS = [
    MemoryKind.ANONYMOUS,
    MemoryKind.THP,
    MemoryKind.MEMFD,
    MemoryKind.HUGETLB,
    MemoryKind.HUGETLB_ANONYMOUS,
]


@dataclass(frozen=True, slots=True)
class Testbed:
    """devices: PCI addresses of edu devices, each in an IOMMU group of its own, bound to vfio-pci."""

    __test__ = False

    kernel: Kernel
    devices: list[str]

    @property
    def version(self) -> tuple[int, int]:
        """Of the Linux that it is, or that it answers like."""
        if isinstance(self.kernel, SimKernel):
            return self.kernel.version
        major, minor, *_ = os.uname().release.split(".")
        return int(major), int(minor)


def populated(kernel: Kernel, kind: MemoryKind, size: int) -> Memory:
    """Memory with a page everywhere."""
    memory = Memory.allocate(kind, size, kernel=kernel)
    try:
        memory.populate(0, size)
    except OSError:
        memory.close()
        raise
    return memory
