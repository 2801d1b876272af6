"""GuestIommu: what a guest's IOMMU lets devices reach of memory that comes and goes."""

from __future__ import annotations

import errno
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Self

from pyvfio.dma import Access, AddressSpace, MappedRun
from pyvfio.errors import InvalidArgument, ShortUnmap, VfioError
from pyvfio.kernel import host_page_size
from pyvfio.memory import Memory
from virtiomem.discard import DiscardCoordination, DiscardUse, ListenerDiverged, RamDiscardManager, Section
from virtiomem.mapping.errors import GuestMappingRefused, Refusal
from virtiomem.mapping.guest_mappings import GuestMapping, GuestMappingTable

_log = logging.getLogger(__name__)
_ADDRESS_LIMIT = 1 << 64


class GuestIommu:
    """The mappings a guest makes of a section of discardable memory, in every address space that has joined.

    Nothing that is discarded can be mapped, and what is mapped is revoked before its memory is discarded: that is a
    part of the unplug, and undone with it. A mapping is revoked whole, also where only some of it is discarded. A block
    that is plugged again comes without mappings: the guest makes new ones.

    A RamDiscardListener, registered with discards from the beginning to close(). Safe from any thread: the lock of
    discards guards it. Address spaces stay the caller's.
    """

    name = "guest IOMMU"

    def __init__(
        self,
        discards: RamDiscardManager,
        section: Section,
        *,
        max_bytes: int,
        max_mappings: int,
        coordination: DiscardCoordination | None = None,
        revoked: Callable[[Sequence[GuestMapping]], None] = lambda _: None,
        unmapped: Callable[[Sequence[GuestMapping]], None] = lambda _: None,
    ) -> None:
        """max_bytes and max_mappings: what the guest may map at a time; each address space pins as much. revoked is
        told, with the lock held, of mappings that are gone because their memory is: the guest must learn of it.
        unmapped, of those the guest has taken back: who tracks dirty pages marks them, for their log is gone, too.

        Raises InvalidArgument, and DiscardRefused if somebody discards memory without telling anyone.
        """
        self._discards = discards
        self._section = section
        self._max_bytes = max_bytes
        self._max_mappings = max_mappings
        self._revoked = revoked
        self._unmapped = unmapped
        self._spaces: list[AddressSpace] = []
        self._page_size = host_page_size()
        self._table = GuestMappingTable(discards.granularity)
        self._refusals: Counter[Refusal] = Counter()
        with ExitStack() as undo:
            hold = (coordination or DiscardCoordination()).hold(DiscardUse.DISABLE_UNCOORDINATED, self.name)
            undo.callback(hold.release)
            discards.register(self, section)
            undo.pop_all()
        self._hold = hold

    @property
    def mappings(self) -> tuple[GuestMapping, ...]:
        """What the guest has mapped, by address."""
        with self._discards.lock:
            return self._table.all()

    @property
    def mapped_bytes(self) -> int:
        """Bytes the guest has mapped; a page that is mapped twice counts twice."""
        return self._table.bytes

    @property
    def refusals(self) -> Mapping[Refusal, int]:
        """How often each reason was given. Missing: never."""
        return MappingProxyType(dict(self._refusals))

    def map(self, iova: int, offset: int, size: int, access: Access = Access.READ_WRITE) -> None:
        """The guest maps size bytes of the memory, from offset, at iova; in bytes, whole pages.

        Raises GuestMappingRefused, with nothing mapped. Should an address space not let go of what another refused, its
        __cause__ is a ListenerDiverged, and the mapping stays the guest's until unmap() or a discard.
        """
        mapping = GuestMapping(iova, offset, size, access)
        with self._discards.lock:
            self._check(mapping)
            stuck: list[GuestMapping] = []
            try:
                with ExitStack() as undo:
                    for space in self._spaces:
                        self._map(space, mapping)
                        undo.callback(self._take_back, space, mapping, stuck)
                    undo.pop_all()
            except VfioError as error:
                if stuck:
                    self._table.add(mapping)
                    error = self._diverged("map", stuck, "is still mapped in some address space", error, "Unmap it")
                raise self._refused("map", mapping, Refusal.HOST, error.errno or errno.EIO, str(error)) from error
            self._table.add(mapping)

    def unmap(self, iova: int, size: int) -> int:
        """The guest takes back every mapping from iova to iova + size; return the bytes unmapped, 0 if there are none.

        Raises GuestMappingRefused for a range that cuts a mapping, or if an address space refuses: with everything
        mapped as before then, unless its __cause__ is a ListenerDiverged.
        """
        with self._discards.lock:
            span = GuestMapping(iova, 0, size, Access(0))
            if size <= 0 or iova < 0 or span.end > _ADDRESS_LIMIT:
                raise self._refused("unmap", span, Refusal.INVALID, errno.EINVAL)
            leaving = self._table.at(iova, size)
            if cut := next((each for each in leaving if each.iova < iova or each.end > span.end), None):
                raise self._refused("unmap", span, Refusal.SPLIT, errno.EINVAL, f"it would cut {cut}")
            try:
                self._unmap_all(leaving, advice="Unmap it again")
            except VfioError as error:
                raise self._refused("unmap", span, Refusal.HOST, error.errno or errno.EIO, str(error)) from error
            for mapping in leaving:
                self._table.remove(mapping)
            if leaving:
                self._unmapped(leaving)
            return sum(mapping.size for mapping in leaving)

    def join(self, space: AddressSpace) -> None:
        """Let the devices of space reach what the guest has mapped, from now on.

        A failure leaves it out, with nothing mapped; if even that fails it stays in: leave() then. Raises
        InvalidArgument if it has joined already, and what map_dma raises.
        """
        with self._discards.lock:
            if any(space is joined for joined in self._spaces):
                raise InvalidArgument(errno.EEXIST, f"{space.name} joins the {self.name}", meaning="it has already")
            page_size = space.page_sizes[0]
            stuck: list[GuestMapping] = []
            try:
                with ExitStack() as undo:
                    for mapping in self._table.all():
                        self._map(space, mapping)
                        undo.callback(self._take_back, space, mapping, stuck)
                    undo.pop_all()
            except VfioError as error:
                if stuck:
                    self._spaces.append(space)
                    raise self._diverged("join", stuck, "stayed mapped", error, "Let it leave") from error
                raise
            self._spaces.append(space)
            # What left stays the unit: one that joins again must find it kept.
            self._page_size = max(self._page_size, page_size)

    def leave(self, space: AddressSpace) -> None:
        """Take from space all that the guest has mapped. A failure leaves it in, with all it had, or ListenerDiverged
        says what not. Raises InvalidArgument if it has not joined, and what unmap_dma raises."""
        with self._discards.lock:
            if not any(space is joined for joined in self._spaces):
                raise InvalidArgument(errno.ENOENT, f"{space.name} leaves the {self.name}", meaning="it never joined")
            self._unmap_all(self._table.all(), [space], "Let it leave again")
            self._spaces = [other for other in self._spaces if other is not space]

    def close(self) -> None:
        """Take everything back, leave the manager, and let others discard memory again. Raises what unmap_dma raises,
        with everything as before. Closing twice is harmless."""
        with self._discards.lock:
            if self._hold.released:
                return
            self._discards.unregister(self)
            self._spaces.clear()
            self._hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, section: Section, granularity: int) -> None:  # noqa: ARG002 (pages are any unit's multiple)
        """Raises InvalidArgument if no address space could map section."""
        if not isinstance(section.memory, Memory):
            meaning = "only a pyvfio.memory.Memory can be mapped for DMA"
            raise InvalidArgument(errno.EINVAL, f"register {self.name}", meaning=meaning)

    def populate(self, section: Section, granularity: int) -> None:  # noqa: ARG002 (the listener's signature)
        """Map again what a discard has taken that is now undone: memory that is populated anew has no mappings.

        Raises what map_dma raises, with the rest mapped again nevertheless: the next repair() has less to do.
        """
        failures = []
        for space in self._spaces:
            held = space.mappings()
            for mapping in self._table.over(section.run):
                if not self._is_held(held, mapping):
                    try:
                        self._map(space, mapping)
                    except VfioError as error:
                        failures.append(error)
        if failures:
            raise failures[0]

    def discard(self, section: Section) -> None:
        """Revoke what is mapped of section. Raises what unmap_dma raises, with all of it mapped again, or
        ListenerDiverged that says what not."""
        self._unmap_all(self._table.over(section.run))

    def discarded(self, section: Section) -> None:
        """The mappings discard() took are gone for good."""
        gone = self._table.over(section.run)
        for mapping in gone:
            self._table.remove(mapping)
        if gone:
            _log.info("%s: %d mappings revoked with the memory at %s", self.name, len(gone), section)
            self._revoked(gone)

    def _check(self, mapping: GuestMapping) -> None:
        """What is wrong with a mapping, in the order of a guest's own means to know."""
        section = self._section
        page_size = self._page_size
        inside = section.run.start <= mapping.offset and mapping.offset + mapping.size <= section.run.end
        aligned = not (mapping.iova | mapping.offset | mapping.size) % page_size
        if not inside or not aligned or mapping.size <= 0 or mapping.iova < 0 or mapping.end > _ADDRESS_LIMIT:
            meaning = f"not whole pages of {page_size:#_x} within the region and the address space"
            raise self._refused("map", mapping, Refusal.INVALID, errno.EINVAL, meaning)
        if not mapping.access:
            raise self._refused("map", mapping, Refusal.INVALID, errno.EINVAL, "neither readable nor writable")
        if section.readonly and mapping.access & Access.WRITE:
            raise self._refused("map", mapping, Refusal.READONLY, errno.EACCES, "devices may only read this memory")
        if other := next(iter(self._table.at(mapping.iova, mapping.size)), None):
            raise self._refused("map", mapping, Refusal.OVERLAP, errno.EEXIST, f"{other} is mapped already")
        if not self._discards.is_populated(mapping.offset, mapping.size):
            raise self._refused("map", mapping, Refusal.DISCARDED, errno.ENXIO, "some of the memory is not plugged")
        if len(self._table) >= self._max_mappings:
            meaning = f"the guest has {len(self._table)} mappings, as many as it may"
            raise self._refused("map", mapping, Refusal.TOO_MANY_MAPPINGS, errno.ENOSPC, meaning)
        if self._table.bytes + mapping.size > self._max_bytes:
            meaning = (
                f"the guest has mapped {self._table.bytes:#_x} of the {self._max_bytes:#_x} bytes it may "
                "(a page that is mapped twice counts twice)"
            )
            raise self._refused("map", mapping, Refusal.TOO_MANY_BYTES, errno.ENOMEM, meaning)

    def _map(self, space: AddressSpace, mapping: GuestMapping) -> None:
        memory = self._section.memory
        assert isinstance(memory, Memory)
        space.map_dma(mapping.iova, memory, mapping.offset, mapping.size, mapping.access)

    def _unmap(self, space: AddressSpace, mapping: GuestMapping) -> None:
        returned = space.unmap_dma(mapping.iova, mapping.size)
        if returned != mapping.size:
            meaning = f"{returned:#_x} bytes came off"
            arguments = {"iova": mapping.iova, "size": mapping.size}
            raise ShortUnmap(errno.EIO, f"unmap by the {self.name}", arguments, meaning)

    def _unmap_all(
        self, mappings: Sequence[GuestMapping], spaces: Sequence[AddressSpace] | None = None, advice: str | None = None
    ) -> None:
        """All or nothing, last joined first. Raises the first failure, or ListenerDiverged if some stayed unmapped."""
        lost: list[GuestMapping] = []
        try:
            with ExitStack() as undo:
                for space in reversed(self._spaces if spaces is None else spaces):
                    held = space.mappings() if mappings else ()
                    for mapping in mappings:
                        if self._is_held(held, mapping):
                            undo.callback(self._map_again, space, mapping, lost)
                            self._unmap(space, mapping)
                undo.pop_all()
        except VfioError as error:
            if lost:
                what = "is no longer mapped in some address space"
                raise self._diverged("unmap", lost, what, error, advice) from error
            raise

    def _map_again(self, space: AddressSpace, mapping: GuestMapping, lost: list[GuestMapping]) -> None:
        if not self._is_held(space.mappings(), mapping):
            try:
                self._map(space, mapping)
            except VfioError:
                lost.append(mapping)

    def _take_back(self, space: AddressSpace, mapping: GuestMapping, stuck: list[GuestMapping]) -> None:
        try:
            self._unmap(space, mapping)
        except VfioError:
            if self._is_held(space.mappings(), mapping):
                stuck.append(mapping)

    def _is_held(self, runs: Sequence[MappedRun], mapping: GuestMapping) -> bool:
        """Whether mapping is among what an address space has mapped."""
        index = bisect_right(runs, mapping.iova, key=lambda run: run.iova) - 1
        if index < 0:
            return False
        run = runs[index]
        place = (run.memory, run.iova, run.offset, run.size)
        return place == (self._section.memory, mapping.iova, mapping.offset, mapping.size)

    def _diverged(
        self, operation: str, mappings: Sequence[GuestMapping], what: str, error: VfioError, advice: str | None = None
    ) -> ListenerDiverged:
        """advice: None where the manager knows and repairs it."""
        changed = [part for mapping in mappings if (part := self._section.intersect(mapping.run)) is not None]
        meaning = f"{', '.join(map(str, mappings))} {what}: {error}"
        if advice is None:
            return ListenerDiverged(f"{operation} by the {self.name}", meaning, changed)
        return ListenerDiverged(f"{operation} by the {self.name}", meaning, changed, advice)

    def _refused(
        self, operation: str, mapping: GuestMapping, reason: Refusal, code: int, meaning: str = ""
    ) -> GuestMappingRefused:
        self._refusals[reason] += 1
        arguments: dict[str, object] = {"iova": mapping.iova, "size": mapping.size}
        if operation == "map":
            arguments["offset"] = mapping.offset
        return GuestMappingRefused(code, f"guest {operation}", arguments, reason, meaning)
