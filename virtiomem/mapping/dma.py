"""DmaMapper: the listener that keeps what is populated mapped for DMA."""

from __future__ import annotations

import errno
import threading
from bisect import bisect_right
from typing import Self

from pyvfio.dma import Access, AddressSpace, MappedRun
from pyvfio.errors import AlreadyMapped, InvalidArgument, MappingLimitReached, OutsideIovaRanges, ShortUnmap, VfioError
from pyvfio.memory import Memory
from pyvfio.units import format_size
from virtiomem.discard import DiscardCoordination, DiscardUse, ListenerDiverged, Section
from virtiomem.planner import fitting_block_size
from virtiomem.runs import Run, intersect, subtract, union


class DmaMapper:
    """Maps sections into an address space, at their offset_within_address_space, with one mapping for each block.

    A discard is one unmap. Readonly sections are mapped for reading only. One mapper may serve any number of sections
    and managers. The address space stays the caller's; when it is closed its mappings are gone.
    """

    def __init__(self, address_space: AddressSpace, coordination: DiscardCoordination | None = None) -> None:
        """Forbid, until close(), that anyone discards memory without telling this mapper.

        coordination: the claims on the memory, shared with all who discard or pin it. Raises DiscardRefused if somebody
        discards without telling anyone.
        """
        self._address_space = address_space
        self._mapped = 0
        self._lock = threading.Lock()
        self._hold = (coordination or DiscardCoordination()).hold(DiscardUse.DISABLE_UNCOORDINATED, self.name)

    @property
    def name(self) -> str:
        """For messages: which address space it maps into."""
        return f"DMA mapper of {self._address_space.name}"

    def close(self) -> None:
        """Let others discard memory again. Closing twice is harmless. Raises VfioError while sections are mapped."""
        if self._mapped and self._address_space.mappings():
            raise VfioError(
                errno.EBUSY,
                f"close {self.name}",
                meaning=f"it maps {self._mapped:#_x} bytes",
                advice="Unregister it from its managers first",
            )
        self._hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, section: Section, granularity: int) -> None:
        """Raises InvalidArgument or OutsideIovaRanges if the address space could not map every block of section."""
        page_size, ranges = self._address_space.page_sizes[0], self._address_space.iova_ranges
        iova, offset, size = section.offset_within_address_space, section.offset_within_region, section.size
        arguments = {"iova": iova, "offset": offset, "size": size}
        operation = f"register {self.name}"
        if not isinstance(section.memory, Memory):
            raise InvalidArgument(errno.EINVAL, operation, meaning="only a pyvfio.memory.Memory can be mapped for DMA")
        if granularity < page_size or (iova | offset | size) % page_size:
            meaning = f"the IOMMU maps nothing smaller than {page_size:#_x}"
            raise InvalidArgument(errno.EINVAL, operation, {**arguments, "granularity": granularity}, meaning)
        if not any(valid.contains(iova, size) for valid in ranges):
            meaning = f"the IOMMU translates only {', '.join(map(str, ranges))}"
            raise OutsideIovaRanges(errno.EINVAL, operation, arguments, meaning)

    def populate(self, section: Section, granularity: int) -> None:
        """Map section in blocks of granularity bytes.

        Raises what map_dma raises, with nothing of it mapped, or ListenerDiverged if some of it stayed mapped.
        """
        try:
            self._map(section, granularity)
        except VfioError as error:
            stayed = self._held(section)
            if stayed:
                self._count(stayed)
                raise self._diverged("populate", section, stayed, error) from error
            if isinstance(error, MappingLimitReached):
                raise self._limit_reached(error, section, granularity) from error
            raise
        self._count([section.run])

    def discard(self, section: Section) -> None:
        """Unmap section with one call.

        Raises what unmap_dma raises, with all of it mapped again, or ListenerDiverged if some of it could not be.
        """
        mappings = self._mappings(section)
        if not mappings:
            # The address space was closed before, and its mappings with it.
            return
        before, granularity = _covered(mappings, section), mappings[0].granularity
        try:
            self._unmap(section, sum(run.size for run in before))
        except VfioError as error:
            gone = subtract(before, self._held(section))
            missing = self._map_again(section, gone, granularity, error)
            if missing:
                self._count(missing, sign=-1)
                raise self._diverged("discard", section, missing, error) from error
            raise
        self._count(before, sign=-1)

    def discarded(self, section: Section) -> None:
        """Do nothing: discard() has unmapped all."""

    def _map(self, section: Section, granularity: int | None) -> None:
        assert isinstance(section.memory, Memory)
        self._address_space.map_dma(
            section.offset_within_address_space,
            section.memory,
            section.offset_within_region,
            section.size,
            Access.READ if section.readonly else Access.READ_WRITE,
            granularity=granularity,
        )

    def _unmap(self, section: Section, expected: int) -> None:
        iova, size = section.offset_within_address_space, section.size
        returned = self._address_space.unmap_dma(iova, size)
        if returned != expected:
            meaning = f"{returned:#_x} bytes came off where {expected:#_x} were mapped"
            raise ShortUnmap(errno.EIO, f"discard by {self.name}", {"iova": iova, "size": size}, meaning)

    def _map_again(self, section: Section, runs: list[Run], granularity: int | None, failure: VfioError) -> list[Run]:
        """Undo the unmap of runs; return those that could not be mapped. failure gets a note for each of them."""
        missing = []
        for run in runs:
            try:
                self._map(_part(section, run), granularity)
            except VfioError as error:
                failure.add_note(f"Mapping again what was gone failed too: {error}")
                missing.append(run)
        return missing

    def _held(self, section: Section) -> list[Run]:
        """The bytes of the memory that are mapped within section."""
        return _covered(self._mappings(section), section)

    def _mappings(self, section: Section) -> list[MappedRun]:
        """What is mapped at section's addresses. Raises AlreadyMapped if some of it is not section's memory."""
        everything = self._address_space.mappings()
        start = section.offset_within_address_space
        end = start + section.size
        first = bisect_right(everything, start, key=lambda run: run.end)
        last = bisect_right(everything, end - 1, lo=first, key=lambda run: run.iova)
        memory: object = section.memory
        moved = section.offset_within_region - start
        for run in everything[first:last]:
            if run.memory is not memory or run.offset - run.iova != moved:
                meaning = f"something else is mapped at {run.iova:#_x}-{run.end - 1:#_x}"
                advice = "Keep the guest's addresses of the region free for it"
                raise AlreadyMapped(errno.EEXIST, self.name, {"section": str(section)}, meaning, advice)
        return list(everything[first:last])

    def _count(self, runs: list[Run], sign: int = 1) -> None:
        with self._lock:
            self._mapped += sign * sum(run.size for run in runs)

    def _diverged(self, operation: str, section: Section, runs: list[Run], error: VfioError) -> ListenerDiverged:
        changed = [_part(section, run) for run in runs]
        stayed = "is mapped" if operation == "populate" else "is no longer mapped"
        where = ", ".join(map(str, changed))
        return ListenerDiverged(
            f"{operation} by {self.name}", f"{where} {stayed}, and should be as before: {error}", changed
        )

    def _limit_reached(self, error: MappingLimitReached, section: Section, granularity: int) -> MappingLimitReached:
        """The same error, with advice: the block size with which all of the memory would fit."""
        try:
            left = self._address_space.mappings_left
        except VfioError:
            return error
        if left is None:
            return error
        memory: object = section.memory
        ours = sum(run.mappings for run in self._address_space.mappings() if run.memory is memory)
        size = section.memory.size
        fitting = fitting_block_size(size, size, left + ours, smallest=granularity * 2)
        if fitting is None:
            return error
        return MappingLimitReached(
            error.errno or errno.ENOSPC,
            error.operation,
            error.arguments,
            error.meaning,
            f"This memory of {format_size(size)} fits with blocks of {format_size(fitting)} or more",
        )


def _covered(mappings: list[MappedRun], section: Section) -> list[Run]:
    """The bytes of section's memory that these mappings cover."""
    return intersect(union(Run(run.offset, run.size) for run in mappings), [section.run])


def _part(section: Section, run: Run) -> Section:
    part = section.intersect(run)
    assert part is not None
    return part
