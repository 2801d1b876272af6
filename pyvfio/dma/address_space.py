"""AddressSpace: what a program that maps memory for DMA uses, whichever kernel interface is below."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pyvfio.memory import DmaTarget, Memory


class Access(enum.IntFlag):
    """What devices may do with memory; the values of VFIO_DMA_MAP_FLAG_READ and VFIO_DMA_MAP_FLAG_WRITE."""

    READ = 1
    WRITE = 2
    READ_WRITE = READ | WRITE


@dataclass(frozen=True, slots=True)
class IovaRange:
    """Device addresses. start: the first one. last: the last one, which belongs to the range."""

    start: int
    last: int

    def contains(self, iova: int, size: int) -> bool:
        """Whether size bytes from iova on all lie in the range."""
        return self.start <= iova and iova + size - 1 <= self.last

    def __str__(self) -> str:
        return f"{self.start:#_x}-{self.last:#_x}"


@dataclass(frozen=True, slots=True)
class MappedRun:
    """A part of memory that devices reach at consecutive addresses, by one mapping or by several.

    iova: the first address. size: bytes. memory: what is mapped there. offset: where in the memory the part begins, in
    bytes. access: what devices may do with it. granularity: None for one mapping; else there is a mapping for each part
    of the memory between two multiples of granularity, in bytes.
    """

    iova: int
    size: int
    memory: DmaTarget
    offset: int
    access: Access
    granularity: int | None = None

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.iova + self.size

    def parts(self) -> tuple[range, ...]:
        """The addresses that the mappings begin at, as ranges whose step is the size of each of their mappings.

        There are up to three, ascending: of a short first mapping, of whole ones, of a short last one.
        """
        if self.granularity is None:
            return (range(self.iova, self.end, self.size),)
        head = min(-self.offset % self.granularity, self.size)
        tail = (self.offset + self.size) % self.granularity if head < self.size else 0
        middle = range(self.iova + head, self.end - tail, self.granularity)
        parts = (range(self.iova, self.iova + head, head or 1), middle, range(self.end - tail, self.end, tail or 1))
        return tuple(part for part in parts if part)

    def part(self, start: int, end: int) -> MappedRun:
        """The run from the address start up to end, neither of which cuts a mapping unless the run is of one."""
        if start == self.iova and end == self.end:
            return self
        return replace(self, iova=start, offset=self.offset + start - self.iova, size=end - start)

    def size_of(self, count: int) -> int:
        """How many bytes its first count mappings have."""
        size = 0
        for part in self.parts():
            taken = min(count, len(part))
            size, count = size + taken * part.step, count - taken
        return size

    def single_mappings(self) -> Iterator[MappedRun]:
        """Each of its mappings as a run of its own, ascending."""
        for part in self.parts():
            for iova in part:
                yield replace(self, iova=iova, size=part.step, offset=self.offset + iova - self.iova)

    @property
    def mappings(self) -> int:
        """How many mappings the run has."""
        if self.granularity is None:
            return 1
        return -(-(self.offset + self.size) // self.granularity) - self.offset // self.granularity


class AddressSpace(Protocol):
    """The device addresses (IOVA) of one or more devices. Addresses and sizes are bytes.

    Unmapping never splits a mapping: what will be unmapped in parts has to be mapped in parts, by a granularity.
    """

    @property
    def name(self) -> str:
        """What messages call the address space."""

    def map_dma(
        self,
        iova: int,
        memory: DmaTarget,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        """Let the devices reach size bytes of memory, from offset on, at iova.

        All three are bytes and multiples of page_sizes[0]. Without a granularity this makes one mapping. A granularity
        is a power of two and a multiple of page_sizes[0]; one mapping is made for each part of the memory between two
        multiples of it, in ascending order. The pages are pinned and charged until they are unmapped, and the memory is
        kept until then even if it is closed. A failure leaves nothing of this call mapped, and neither does a
        KeyboardInterrupt or what else a signal handler raises; if what was mapped cannot be unmapped, the error says so
        and mappings() tells what is still mapped.

        Raises InvalidArgument, OutsideIovaRanges, AlreadyMapped, MappingLimitReached, MemlockExceeded,
        MemoryUnavailable, ClosedError, or a plain VfioError.
        """

    def unmap_dma(self, iova: int, size: int) -> int:
        """Unmap all that is mapped from iova up to iova + size, with one call to the kernel; return the bytes unmapped.

        Holes are allowed. Raises NotMapped, with nothing changed, for a range in which nothing is mapped, or which cuts
        a mapping. Raises ShortUnmap when the kernel unmaps another number of bytes than are mapped there: it has been
        asked for each mapping of the range by itself then, and mappings() no longer lists what is certainly gone. What
        it did not confirm stays there and in unconfirmed(), and this can be tried again. Raises VfioError, with nothing
        changed, when the kernel refuses: what had gone all the same is mapped again, as by confirm(), and what cannot
        be known is unconfirmed().
        """

    def unmap_all(self) -> int:
        """Unmap all that is mapped through this object; return the bytes unmapped.

        Raises ShortUnmap as unmap_dma(), and VfioError when the kernel refuses: all of it is unconfirmed() then.
        """

    def mappings(self) -> tuple[MappedRun, ...]:
        """What is mapped through this object, ascending; adjacent mappings of one granularity as one run."""

    def mappings_in(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """What is mapped in the range, ascending; of a run that reaches over an end of it, the part inside."""

    def unconfirmed(self) -> tuple[MappedRun, ...]:
        """The parts of mappings() of which it is not known whether the kernel still has them, ascending.

        There are none unless a call to map or to unmap was broken off by an exception of another kind than the kernel's
        refusal, such as KeyboardInterrupt, the kernel said two things that cannot both be true, or it refused to unmap
        and does not say what it has. Devices may or may not reach them. Unmapping them settles it: that raises nothing
        for what turns out to be gone. So does confirm().
        """

    def confirm(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """Have all of mappings() in the range mapped for certain; return what is unconfirmed() all the same, ascending.

        The kernel is asked to map each mapping that it has not confirmed once more: if it is there, the kernel says so
        (EEXIST), and else it is there then. Nothing is asked where nothing is in doubt. Raises VfioError.
        """

    @property
    def generation(self) -> int:
        """How often all mappings have gone without having been unmapped, as they do when the last group leaves a
        container of type1.

        It only grows. Whoever maps on behalf of others compares it with what it was: if it differs, what was mapped
        before is gone, mappings() does not list it, and it has to be mapped again.
        """

    @property
    def mapping_count(self) -> int:
        """How many mappings mappings() stands for."""

    @property
    def mappings_left(self) -> int | None:
        """How many more mappings the kernel takes; None if it sets no limit."""

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        """Where mappings may lie, ascending."""

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """Page sizes of the IOMMU in bytes, ascending; the first is the unit of every mapping."""


@runtime_checkable
class TakesUp(Protocol):
    """An AddressSpace in which a process before this one may have left mappings."""

    def take_up(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> int:
        """Have in mappings() what that process has mapped there, as SucceedingSpace has it; return its bytes."""

    def hand_over(self) -> None:
        """Close it, and change nothing: what is mapped stays for a process after this one."""


@runtime_checkable
class AttachesGroups(Protocol):
    """An AddressSpace that loses every mapping with its last group, and may get another one later."""

    def on_attach(self, restore: Callable[[], object]) -> None:
        """Have restore called whenever a group has been attached, before a device of it is opened.

        It may map again what was lost. What it raises refuses the group: it is taken out again, and whoever attached it
        gets the error. It is called with no lock of the address space held. A bound method goes with its object, which
        this does not keep alive.
        """
