"""GuestIommu: the mappings that a guest makes with its IOMMU of memory that comes and goes."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Self

from pyvfio.dma import Access, AddressSpace, AttachesGroups
from pyvfio.errors import ClosedError, InvalidArgument, VfioError
from pyvfio.kernel import host_page_size
from pyvfio.memory import Memory
from virtiomem.discard import (
    DiscardCoordination,
    DiscardUse,
    ListenerDiverged,
    RamDiscardManager,
    Section,
    Telling,
    few,
)
from virtiomem.mapping.errors import GuestMappingRefused, Refusal
from virtiomem.mapping.guest_mappings import GuestMapping, GuestMappingTable
from virtiomem.mapping.guest_space import GuestSpace

_log = logging.getLogger(__name__)
_ADDRESS_LIMIT = 1 << 64


class GuestIommu:
    """The mappings that a guest makes of a section of discardable memory, in every address space that has joined.

    What is discarded cannot be mapped, and what is mapped is revoked before its memory is discarded. Revoking is a part
    of the unplug, and undone with it. A mapping is revoked whole, even where only some of its memory is discarded. A
    block that is plugged again comes without mappings: the guest makes new ones.

    It is a RamDiscardListener, registered with discards from the beginning to close(). Methods may be called from any
    thread: the lock of discards guards them. Address spaces stay the caller's. One that is closed is let go, with a
    line in the log; one that has lost its mappings otherwise is a divergence of discards until they are made again.
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
        """Register with discards for section, in whose memory the guest maps.

        max_bytes, max_mappings: how much the guest may have mapped at a time; each address space pins as much.
        coordination: the claims on the memory (default: DiscardCoordination.of it). revoked: called with mappings that
        are gone because their memory is; the guest must learn of it. unmapped: called with mappings that the guest has
        taken back; whoever tracks dirty pages marks them, because their log is gone, too. Both are called with the lock
        held, after the change: what they raise is logged and counted, and changes nothing.

        Raises InvalidArgument, and DiscardRefused if somebody discards memory without telling anyone.
        """
        self._discards = discards
        self._section = section
        self._max_bytes = max_bytes
        self._max_mappings = max_mappings
        self._revoked = revoked
        self._unmapped = unmapped
        self._telling = Telling(self.name)
        self._spaces: list[GuestSpace] = []
        self._repair: Callable[[], Sequence[str]] = tuple
        # Whether a call was cut short, by a signal for example, so that an address space may hold less than it should.
        self._unsure = False
        self._page_size = host_page_size()
        self._table = GuestMappingTable(discards.granularity)
        self._refusals: Counter[Refusal] = Counter()
        with ExitStack() as undo:
            coordination = coordination or DiscardCoordination.of(section.memory)
            hold = coordination.hold(DiscardUse.DISABLE_UNCOORDINATED, self.name)
            undo.callback(hold.release)
            discards.register(self, section)
            undo.pop_all()
        self._hold = hold

    @property
    def mappings(self) -> tuple[GuestMapping, ...]:
        """What the guest has mapped, ascending by device address."""
        with self._discards.lock:
            return self._table.all()

    @property
    def mapped_bytes(self) -> int:
        """Bytes the guest has mapped; a page that is mapped twice counts twice."""
        with self._discards.lock:
            return self._table.bytes

    @property
    def refusals(self) -> Mapping[Refusal, int]:
        """How often a map or unmap was refused, by reason. A reason that was never given has no key."""
        with self._discards.lock:
            return MappingProxyType(dict(self._refusals))

    @property
    def failures_to_tell(self) -> int:
        """How often revoked or unmapped has raised something."""
        return self._telling.failures

    def map(self, iova: int, offset: int, size: int, access: Access = Access.READ_WRITE) -> None:
        """Map size bytes of the memory, from offset, at iova, for the guest. All are bytes, and whole pages.

        Raises GuestMappingRefused, with nothing mapped. If one address space refuses, and another cannot be made to let
        go, the __cause__ is a ListenerDiverged, and the mapping stays the guest's until unmap() or a discard.
        """
        mapping = GuestMapping(iova, offset, size, access)
        with self._discards.lock:
            self._require_open("map")
            self._check(mapping)
            stuck: list[GuestMapping] = []
            try:
                with ExitStack() as undo:
                    for space in self._spaces:
                        try:
                            space.map_new(mapping, undo, stuck)
                        except ClosedError:
                            if not self._is_gone(space):
                                raise
                    undo.pop_all()
            except VfioError as error:
                if stuck:
                    self._table.add(mapping)
                    error = self._diverged("map", stuck, "is still mapped in some address space", error, "Unmap it")
                raise self._refused("map", mapping, Refusal.HOST, error.errno or errno.EIO, str(error)) from error
            self._table.add(mapping)

    def unmap(self, iova: int, size: int) -> int:
        """Take back every mapping from iova to iova + size for the guest; return how many bytes were unmapped.

        Raises GuestMappingRefused for a range that cuts a mapping, or if an address space refuses. Everything is mapped
        as before then, unless the __cause__ is a ListenerDiverged.
        """
        with self._discards.lock:
            self._require_open("unmap")
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
                self._telling.tell(self._unmapped, leaving)
            return sum(mapping.size for mapping in leaving)

    def join(self, space: AddressSpace) -> None:
        """Let the devices of space reach what the guest has mapped, from now on.

        Raises InvalidArgument if space has joined already, AlreadyMapped if a DMA mapper is registered for it, and what
        map_dma raises; it has not joined then, and nothing is mapped. Raises ListenerDiverged if something stayed
        mapped: space has joined then, so call leave().
        """
        with self._discards.lock, ExitStack() as failed:
            self._require_open(f"{space.name} joins the")
            if self._joined(space):
                operation = f"{space.name} joins the {self.name}"
                raise InvalidArgument(errno.EEXIST, operation, meaning="it has joined already")
            page_size = space.page_sizes[0]
            memory = self._section.memory
            assert isinstance(memory, Memory)
            joining = GuestSpace(self.name, space, memory, self._repair)
            failed.callback(joining.leave)
            stuck: list[GuestMapping] = []
            try:
                with ExitStack() as undo:
                    for mapping in self._table.all():
                        joining.map_new(mapping, undo, stuck)
                    undo.pop_all()
            except VfioError as error:
                if stuck:
                    self._spaces.append(joining)
                    failed.pop_all()
                    raise self._diverged("join", stuck, "stayed mapped", error, "Let it leave") from error
                raise
            self._spaces.append(joining)
            failed.pop_all()
            if isinstance(space, AttachesGroups):
                space.on_attach(joining.restore)
            # The largest unit stays, even when its space leaves: it may join again, and must be able to map all.
            self._page_size = max(self._page_size, page_size)

    def leave(self, space: AddressSpace) -> None:
        """Take from space all that the guest has mapped.

        Raises InvalidArgument if space has not joined, and what unmap_dma raises; it stays joined then, with all that
        it had mapped, or ListenerDiverged says what it has no longer.
        """
        with self._discards.lock:
            self._require_open(f"{space.name} leaves the")
            leaving = self._joined(space)
            if not leaving:
                raise InvalidArgument(errno.ENOENT, f"{space.name} leaves the {self.name}", meaning="it never joined")
            self._unmap_all(self._table.all(), leaving, "Let it leave again")
            self._let_go(leaving[0])

    def close(self) -> None:
        """Unmap everything, leave the manager, and let others discard memory again. Closing twice is harmless.

        Raises what unmap_dma raises, with everything as before; it is not closed then, and close() can be called again.
        """
        with self._discards.lock:
            if self._hold.released:
                return
            self._discards.unregister(self)
            for space in self._spaces:
                self._let_go(space)
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
        """Map again what a discard took that is being undone. Memory that is populated anew has no mappings.

        Raises what map_dma raises, after all others are mapped: the next repair() has less to do.
        """
        failures = []
        for space in self._spaces:
            for mapping in self._table.over(section.run):
                if not space.holds(mapping):
                    try:
                        space.map(mapping)
                    except VfioError as error:
                        if self._is_gone(space):
                            break
                        failures.append(error)
        if failures:
            raise failures[0]

    def discard(self, section: Section) -> None:
        """Unmap what is mapped of section.

        Raises what unmap_dma raises, with all of it mapped again, or ListenerDiverged that says what is not.
        """
        self._unmap_all(self._table.over(section.run))

    def discarded(self, section: Section) -> None:
        """Forget the mappings that discard() took, and tell revoked of them."""
        gone = self._table.over(section.run)
        for mapping in gone:
            self._table.remove(mapping)
        if gone:
            _log.info("%s: %d mappings revoked with the memory at %s", self.name, len(gone), section)
            self._telling.tell(self._revoked, gone)

    def lost(self, section: Section, *, thorough: bool) -> Sequence[Section]:
        """The memory of mappings that some address space does not hold any more, though nobody has taken them back."""
        unsure, self._unsure = self._unsure, False
        gone: list[GuestMapping] = []
        for space in self._spaces:
            # An address space that has lost its last group has lost all of them: one shows it.
            first = self._table.first
            if thorough or unsure or (first is not None and not space.holds(first)):
                missing = [mapping for mapping in self._table.over(section.run) if not space.holds(mapping)]
                if missing and not self._is_gone(space):
                    gone += missing
        return [part for mapping in gone if (part := section.intersect(mapping.run)) is not None]

    def require_room(self, section: Section, granularity: int) -> None:
        """Do nothing: what is plugged comes without mappings."""

    def registered(self, section: Section, repair: Callable[[], Sequence[str]]) -> None:  # noqa: ARG002
        """Have the manager map again what an address space has lost before another device is opened in it."""
        self._repair = repair

    def released(self, section: Section) -> None:
        """Do nothing: close() has given up everything."""

    def _require_open(self, operation: str) -> None:
        if self._hold.released:
            raise ClosedError(errno.EBADF, f"{operation} {self.name}", meaning="it is closed")

    def _joined(self, space: AddressSpace) -> list[GuestSpace]:
        return [joined for joined in self._spaces if joined.space is space]

    def _is_gone(self, space: GuestSpace) -> bool:
        """Whether an address space was closed. Its mappings are gone, and it is let go then, with a line in the log."""
        if not space.closed:
            return False
        what = "is closed, and its mappings are gone with it; all goes on without it"
        _log.warning("%s: %s %s", self.name, space.space.name, what)
        self._let_go(space)
        return True

    def _let_go(self, leaving: GuestSpace) -> None:
        leaving.leave()
        self._spaces = [joined for joined in self._spaces if joined is not leaving]

    def _check(self, mapping: GuestMapping) -> None:
        """Raises GuestMappingRefused for a mapping that may not be made, for the first reason of those below."""
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

    def _unmap_all(
        self, mappings: Sequence[GuestMapping], spaces: Sequence[GuestSpace] | None = None, advice: str | None = None
    ) -> None:
        """Unmap all of mappings from spaces (default: all that have joined), the one that joined last first.

        advice: None where the manager knows of a divergence, and repairs it. Raises what unmap_dma raises, with
        everything mapped again, or ListenerDiverged if some of it could not be.
        """
        lost: list[GuestMapping] = []
        self._unsure = True
        try:
            with ExitStack() as undo:
                for space in reversed(self._spaces if spaces is None else spaces):
                    for mapping in mappings:
                        space.unmap_held(mapping, undo, lost)
                undo.pop_all()
            self._unsure = False
        except VfioError as error:
            self._unsure = False
            if lost:
                what = "is no longer mapped in some address space"
                raise self._diverged("unmap", lost, what, error, advice) from error
            raise

    def _diverged(
        self, operation: str, mappings: Sequence[GuestMapping], what: str, error: VfioError, advice: str | None = None
    ) -> ListenerDiverged:
        """advice: None where the manager knows of it, and repairs it."""
        changed = [part for mapping in mappings if (part := self._section.intersect(mapping.run)) is not None]
        meaning = f"{few(mappings)} {what}: {error}"
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
