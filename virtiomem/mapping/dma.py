"""DmaMapper: the listener that keeps what is populated mapped for DMA."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, Self

from pyvfio.dma import AddressSpace, AttachesGroups
from pyvfio.errors import (
    ClosedError,
    InvalidArgument,
    MappingLimitReached,
    OutsideIovaRanges,
    ShortUnmap,
    VfioError,
)
from pyvfio.memory import Memory
from pyvfio.units import format_size
from virtiomem.discard import DiscardCoordination, DiscardUse, ListenerDiverged, Section, few
from virtiomem.mapping.books import Books, blocks_of
from virtiomem.mapping.claims import Claims
from virtiomem.mapping.presence import is_closed, mapped_runs, unconfirmed_runs
from virtiomem.mapping.section_calls import map_section, require_free, require_ours, take_up_section
from virtiomem.planner import fitting_block_size
from virtiomem.runs import Run, intersect, subtract, union

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 64 << 20
"""Bytes, a power of two, that are mapped, in a few milliseconds, before others have their turn."""


class DmaMapper:
    """Maps sections into an address space, at their offset_within_address_space, with one mapping for each block.

    A discard is one unmap. Readonly sections are mapped for reading only. One mapper may serve any number of sections
    and managers, and the addresses of a section are its own from registration to unregistration: a section is refused
    that lies over another one, of this mapper or of another one of the same address space, or over what is mapped
    there already. It notes what it has mapped, and unmaps nothing else.

    The address space stays the caller's. If it is closed, its mappings are gone with it: the mapper says so in the log,
    once, and goes on without it. If it loses its mappings otherwise, with its last group or because somebody unmaps
    them, that is a divergence of the manager, which maps them again as soon as it can: before its next change, and
    before a group is attached anew, which is refused if they cannot be mapped.
    """

    def __init__(
        self,
        address_space: AddressSpace,
        coordination: DiscardCoordination | None = None,
        *,
        takes_up: bool = False,
    ) -> None:
        """Forbid that anyone discards memory without telling this mapper, until close().

        coordination: the claims on the memory; without it each section's memory is claimed as long as the section is
        registered, on the claims of that memory. takes_up: what a process before this one has mapped of a section is
        this mapper's as soon as it is registered; discard() takes back what of that is not populated. Raises
        DiscardRefused if somebody discards without telling anyone.
        """
        self._space = address_space
        self._turns = Claims.of(address_space).turns
        self._coordination = coordination
        # The books of each section; those of one are changed with the lock of its manager, which calls one at a time.
        self._books: list[Books] = []
        self._lock = threading.Lock()
        self._takes_up = takes_up
        self._closed = False
        self._gone = False
        if isinstance(address_space, AttachesGroups):
            address_space.on_attach(self._restore)
        self._hold = coordination.hold(DiscardUse.DISABLE_UNCOORDINATED, self.name) if coordination else None

    @property
    def name(self) -> str:
        """For messages: which address space it maps into."""
        return f"DMA mapper of {self._space.name}"

    def close(self) -> None:
        """Let others discard memory again. Closing twice is harmless.

        Raises VfioError while it is registered: it stays open then, and can be closed when it is not.
        """
        with self._lock:
            if self._books:
                raise VfioError(
                    errno.EBUSY,
                    f"close {self.name}",
                    meaning=f"it is registered for {few(books.section for books in self._books)}, and maps "
                    f"{sum(books.size for books in self._books):#_x} bytes",
                    advice="Unregister it from its managers first",
                )
            self._closed = True
            if self._hold is not None:
                self._hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, section: Section, granularity: int) -> None:
        """Take section's addresses, until released().

        Raises InvalidArgument or OutsideIovaRanges if the address space could not map every block of section,
        AlreadyMapped if some of its addresses are another's, ClosedError for a mapper or an address space that is
        closed, and DiscardRefused; nothing is taken then.
        """
        iova, offset, size = section.offset_within_address_space, section.offset_within_region, section.size
        arguments = {"iova": iova, "offset": offset, "size": size}
        operation = f"register {self.name}"
        if not isinstance(section.memory, Memory):
            raise InvalidArgument(errno.EINVAL, operation, meaning="only a pyvfio.memory.Memory can be mapped for DMA")
        page_size, ranges = self._space.page_sizes[0], self._space.iova_ranges
        if granularity < page_size or (iova | offset | size) % page_size:
            meaning = f"the IOMMU maps nothing smaller than {page_size:#_x}"
            raise InvalidArgument(errno.EINVAL, operation, {**arguments, "granularity": granularity}, meaning)
        if not any(valid.contains(iova, size) for valid in ranges):
            meaning = f"the IOMMU translates only {', '.join(map(str, ranges))}"
            raise OutsideIovaRanges(errno.EINVAL, operation, arguments, meaning)
        with self._lock:
            if self._closed:
                raise ClosedError(errno.EBADF, operation, meaning="it is closed")
            claim = Claims.of(self._space).take(self.name, Run(iova, size))
            try:
                require_free(self._space, section, operation)
                hold = None
                if self._coordination is None:
                    of_memory = DiscardCoordination.of(section.memory)
                    hold = of_memory.hold(DiscardUse.DISABLE_UNCOORDINATED, self.name)
                books = Books(section, granularity, claim, hold)
            except BaseException:
                claim.release()
                raise
            if self._takes_up:
                try:
                    take_up_section(self._space, section, granularity, operation)
                    books.enter(mapped_runs(self._space, section)[0])
                except BaseException:
                    books.close()
                    raise
            self._books.append(books)

    def registered(self, section: Section, repair: Callable[[], Sequence[str]]) -> None:
        """Have the manager map again what the address space has lost before another device is opened in it."""
        self._books_of(section).repair = repair

    def released(self, section: Section) -> None:
        """Give section's addresses up: it is registered no more, and nothing of it is mapped."""
        with self._lock:
            leaving = [books for books in self._books if books.section == section]
            self._books = [books for books in self._books if books not in leaving]
        for books in leaving:
            books.close()

    def require_room(self, section: Section, granularity: int) -> None:
        """Raises MappingLimitReached if the address space has too few mappings left for the blocks of section."""
        try:
            left = self._space.mappings_left
        except ClosedError:
            self._is_gone()
            return
        needed = blocks_of(section.run, granularity)
        if left is not None and needed > left:
            error = MappingLimitReached(
                errno.ENOSPC,
                f"populate by {self.name}",
                {"iova": section.offset_within_address_space, "size": section.size},
                f"{needed} more mapping{'s are' if needed > 1 else ' is'} needed; the address space holds "
                f"{self._space.mapping_count}, and {left} are left of its limit since it was opened "
                "(vfio_iommu_type1.dma_entry_limit)",
            )
            raise self._limit_reached(error, section, granularity)

    def populate(self, section: Section, granularity: int) -> None:
        """Map what is not mapped yet of section, in blocks of granularity bytes.

        Raises what map_dma raises, with nothing mapped that was not before, or ListenerDiverged if some of it stayed.
        """
        books = self._books_of(section)
        self._require_known(section)
        # What is there that is not in the books is another's, and none of what this call has to take back.
        before, _ = mapped_runs(self._space, section)
        wanted = subtract([section.run], intersect(before, books.entered(section.run)))
        # It is lost, if it was entered before. It stays so if it cannot be mapped.
        entered = books.entered(section.run)
        books.unsure = True
        books.enter(wanted)
        done: list[Run] = []
        try:
            for run in _pieces(wanted, granularity):
                with self._turns.turn():
                    map_section(self._space, _part(section, run), granularity)
                done.append(run)
        except VfioError as error:
            for run in union(done):
                self._take_back(_part(section, run), error)
            stayed = intersect(subtract(mapped_runs(self._space, section)[0], before), wanted)
            books.strike(wanted)
            books.enter([*stayed, *entered])
            books.unsure = False
            if stayed:
                raise self._diverged("populate", section, stayed, error) from error
            if isinstance(error, ClosedError) and self._is_gone():
                return
            if isinstance(error, MappingLimitReached):
                raise self._limit_reached(error, section, granularity) from error
            raise
        books.unsure = False

    def discard(self, section: Section) -> None:
        """Unmap section with one call.

        Raises what unmap_dma raises, with all of it mapped again, or ListenerDiverged if some of it could not be.
        Raises AlreadyMapped, with nothing unmapped, if something lies there that this mapper has not mapped.
        """
        books = self._books_of(section)
        there, others = mapped_runs(self._space, section)
        ours = intersect(books.entered(section.run), there)
        require_ours(self.name, section, subtract(there, ours), others)
        if ours:
            books.unsure = True
            try:
                self._unmap(section, sum(run.size for run in ours))
            except VfioError as error:
                gone = subtract(ours, mapped_runs(self._space, section)[0])
                # What may be there stays in the books: doubted() tells of what cannot be known.
                self._confirm(section)
                missing = self._map_again(section, gone, books.granularity, error)
                books.strike(missing)
                books.unsure = False
                if missing:
                    raise self._diverged("discard", section, missing, error) from error
                raise
        books.strike([section.run])
        books.unsure = False

    def discarded(self, section: Section) -> None:
        """Do nothing: discard() has unmapped all."""

    def lost(self, section: Section, *, thorough: bool) -> Sequence[Section]:
        """What it has mapped of section, and is not mapped any more.

        Unless thorough, one mapping is looked for: an address space that has lost its last group has lost all of them.
        """
        books = self._books_of(section)
        first = books.first
        if first is None or self._gone:
            return ()
        if not thorough and not books.unsure:
            sample = _part(books.section, Run(first.start, min(first.size, books.granularity)))
            if mapped_runs(self._space, sample)[0]:
                return ()
        if self._is_gone():
            books.strike([books.section.run])
            return ()
        there, _ = mapped_runs(self._space, section)
        books.unsure = False
        return [_part(section, run) for run in subtract(books.entered(section.run), there)]

    def doubted(self, section: Section) -> Sequence[Section]:
        """What it has mapped of section, and the kernel does not say whether it is mapped still."""
        books = self._books_of(section)
        doubts = [] if books.first is None else unconfirmed_runs(self._space, section)
        # Of what is in doubt, which is next to nothing: there may be very much that is entered.
        return [_part(section, run) for doubt in doubts for run in books.entered(doubt)]

    def _confirm(self, section: Section) -> None:
        """Have the kernel say of what is in doubt that it is mapped, as far as it does."""
        with suppress(VfioError):
            self._space.confirm(section.offset_within_address_space, section.size)

    def _require_known(self, section: Section) -> None:
        """Raises VfioError if some of what it has mapped of section is in doubt, and cannot be mapped for certain."""
        if not self.doubted(section):
            return
        self._confirm(section)
        if left := self.doubted(section):
            raise VfioError(
                errno.EIO,
                f"populate by {self.name}",
                meaning=f"the kernel does not tell whether {few(left)} is mapped",
                advice="It is asked again before the next change",
            )

    def _restore(self) -> None:
        """A group was attached: map what is not mapped. Raises VfioError, which refuses the group, if that fails."""
        with self._lock:
            repairs = [books.repair for books in self._books]
        if left := [sentence for repair in repairs for sentence in repair()]:
            raise VfioError(errno.EIO, f"attach a group to {self._space.name}", meaning=few(left, "; "))

    def _is_gone(self) -> bool:
        """Whether the address space is closed. The log says so once."""
        if not self._gone and is_closed(self._space):
            self._gone = True
            _log.warning("%s: its address space is closed, and its mappings are gone with it; all goes on without it",
                         self.name)  # fmt: skip
        return self._gone

    def _books_of(self, section: Section) -> Books:
        with self._lock:
            iova = section.offset_within_address_space
            for books in self._books:
                start = books.section.offset_within_address_space
                if start <= iova < start + books.section.size:
                    return books
        raise InvalidArgument(errno.ENOENT, self.name, {"section": str(section)}, "it is not registered for this")

    def _unmap(self, section: Section, expected: int) -> None:
        iova, size = section.offset_within_address_space, section.size
        returned = self._space.unmap_dma(iova, size)
        if returned != expected:
            meaning = f"{returned:#_x} bytes came off where {expected:#_x} were mapped"
            raise ShortUnmap(errno.EIO, f"discard by {self.name}", {"iova": iova, "size": size}, meaning)

    def _take_back(self, section: Section, failure: VfioError) -> None:
        try:
            self._unmap(section, section.size)
        except VfioError as error:
            failure.add_note(f"Taking back what this call had mapped failed too: {error}")

    def _map_again(self, section: Section, runs: list[Run], granularity: int, failure: VfioError) -> list[Run]:
        """Undo the unmap of runs; return those that could not be mapped. failure gets a note for the first of them."""
        missing: list[Run] = []
        for run in runs:
            try:
                map_section(self._space, _part(section, run), granularity)
            except VfioError as error:
                if not missing:
                    failure.add_note(f"Mapping again what was gone failed too: {error}")
                missing.append(run)
        # Of a run that could not be mapped again, some may have stayed all the same.
        return subtract(missing, mapped_runs(self._space, section)[0])

    def _diverged(self, operation: str, section: Section, runs: list[Run], error: VfioError) -> ListenerDiverged:
        changed = [_part(section, run) for run in runs]
        stayed = "is mapped" if operation == "populate" else "is no longer mapped"
        return ListenerDiverged(
            f"{operation} by {self.name}", f"{few(changed)} {stayed}, and should be as before: {error}", changed
        )

    def _limit_reached(self, error: MappingLimitReached, section: Section, granularity: int) -> MappingLimitReached:
        """The same error, with advice: the block size with which all of the memory would fit."""
        try:
            left = self._space.mappings_left
        except VfioError:
            return error
        if left is None:
            return error
        with self._lock:
            known = [books for books in self._books if books.section.memory is section.memory]
        ours = sum(books.mappings for books in known)
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


def _pieces(runs: Sequence[Run], granularity: int) -> Iterator[Run]:
    """runs in pieces that take no longer than others who map into the same address space can wait, cut at multiples of
    granularity."""
    for run in runs:
        start, most = run.start, max(_AT_ONCE, granularity)
        while start < run.end:
            end = min((start // most + 1) * most, run.end)
            yield Run(start, end - start)
            start = end


def _part(section: Section, run: Run) -> Section:
    part = section.intersect(run)
    assert part is not None
    return part
