"""The machine that the tests of tests/every_kernel run on, simulated or real."""

from __future__ import annotations

from dataclasses import dataclass

from pyvfio import Kernel, Memory, MemoryKind

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


def populated(kernel: Kernel, kind: MemoryKind, size: int) -> Memory:
    """Memory with a page everywhere."""
    memory = Memory.allocate(kind, size, kernel=kernel)
    try:
        memory.populate(0, size)
    except OSError:
        memory.close()
        raise
    return memory
