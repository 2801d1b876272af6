"""AddressSpace: what a DMA mapper programs against, whichever kernel interface is below."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvfio.memory import Memory


class Access(enum.IntFlag):
    """What the device may do with the memory; VFIO_DMA_MAP_FLAG_READ and _WRITE."""

    READ = 1
    WRITE = 2
    READ_WRITE = READ | WRITE


@dataclass(frozen=True, slots=True)
class IovaRange:
    """Device addresses the IOMMU translates, both ends included."""

    start: int
    last: int

    def contains(self, iova: int, size: int) -> bool:
        return self.start <= iova and iova + size - 1 <= self.last

    def __str__(self) -> str:
        return f"{self.start:#_x}-{self.last:#_x}"


@dataclass(frozen=True, slots=True)
class MappedRun:
    """size bytes of memory, from offset, at iova: one mapping, or with a granularity one mapping for each part that
    lies between multiples of granularity in the memory."""

    iova: int
    size: int
    memory: Memory
    offset: int
    access: Access
    granularity: int | None = None

    @property
    def end(self) -> int:
        return self.iova + self.size

    def parts(self) -> tuple[range, ...]:
        """The addresses its mappings begin at, ascending, as ranges whose step is the size of each of their mappings:
        a short first one, whole ones, a short last one."""
        if self.granularity is None:
            return (range(self.iova, self.end, self.size),)
        head = min(-self.offset % self.granularity, self.size)
        tail = (self.offset + self.size) % self.granularity if head < self.size else 0
        middle = range(self.iova + head, self.end - tail, self.granularity)
        parts = (range(self.iova, self.iova + head, head or 1), middle, range(self.end - tail, self.end, tail or 1))
        return tuple(part for part in parts if part)

    @property
    def mappings(self) -> int:
        if self.granularity is None:
            return 1
        return -(-(self.offset + self.size) // self.granularity) - self.offset // self.granularity


class AddressSpace(Protocol):
    """The device addresses (IOVA) of one or more devices. Addresses and sizes are bytes.

    An unmap never splits a mapping, so what will be unmapped in parts must be mapped in parts: that is granularity.
    """

    @property
    def name(self) -> str:
        """What to call this address space in messages."""

    def map_dma(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        """Let the devices reach size bytes of memory, from offset, at iova.

        All three are multiples of min(page_sizes). With a granularity (a power of two, multiple of it too) one mapping
        is made for each part of the memory between multiples of it, in ascending order; without, one for all. The
        pages are pinned and charged until unmapped, and the memory is kept alive as long. A failure leaves nothing of
        this call mapped; if even that cannot be had, the error says so and mappings() tells what is.

        Raises InvalidArgument, OutsideIovaRanges, AlreadyMapped, MappingLimitReached, MemlockExceeded,
        MemoryUnavailable, ClosedError, or a plain VfioError.
        """

    def unmap_dma(self, iova: int, size: int) -> int:
        """Take back every mapping from iova to iova + size with one call; return the bytes unmapped.

        Holes are allowed, an empty range (NotMapped) and a cut through a mapping (NotMapped) are not: nothing has
        changed then. Raises ShortUnmap when the kernel unmaps another size than is mapped there: the rest has then
        been unmapped one by one, and mappings() no longer lists what is gone.
        """

    def unmap_all(self) -> int:
        """Take back every mapping; return the bytes unmapped. Raises ShortUnmap."""

    def mappings(self) -> tuple[MappedRun, ...]:
        """What is mapped through this object, ascending; adjacent mappings of one granularity as one run."""

    @property
    def mapping_count(self) -> int:
        """How many mappings that is."""

    @property
    def mappings_left(self) -> int | None:
        """How many more the kernel will take; None if it sets no limit."""

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        """Where mappings may lie, ascending."""

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """Page sizes of the IOMMU in bytes, ascending; the first is the unit of every mapping."""
