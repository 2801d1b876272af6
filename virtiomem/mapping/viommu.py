"""GuestIommu: the domains of a guest's IOMMU, over memory of which some comes and goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import Self

from pyvfio.errors import VfioError
from virtiomem.discard import (
    DiscardCoordination,
    DiscardUse,
    Divergence,
    RamDiscardManager,
    Section,
)
from virtiomem.mapping.errors import Refusal
from virtiomem.mapping.guest import Guest
from virtiomem.mapping.guest_books import GuestBooks
from virtiomem.mapping.guest_domain import GuestDomain
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.guest_memory import GuestMemory

_log = logging.getLogger(__name__)

Told = Callable[[GuestDomain, Sequence[GuestMapping]], object]
"""Who is told of mappings of a domain that are gone."""


class GuestIommu:
    """The mappings that a guest makes of its memory, in domains, each of which is an address space of its own.

    The guest's memory is what is always there, such as boot RAM, and regions whose blocks come and go. What is
    discarded cannot be mapped, and what is mapped is revoked before its memory is discarded. Revoking is a part of the
    unplug, and undone with it. A mapping is revoked whole, in every address space of its domain, even where only some
    of its memory is discarded. A block that is plugged again comes without mappings: the guest makes new ones.

    It is a RamDiscardListener, registered with the manager of the regions from the beginning to close(). Methods may be
    called from any thread: the lock of the manager guards them.
    """

    name = "guest IOMMU"

    def __init__(
        self,
        discards: RamDiscardManager,
        *sections: Section,
        max_bytes: int,
        max_mappings: int,
        coordination: DiscardCoordination | None = None,
        revoked: Told = lambda *_: None,
        unmapped: Told = lambda *_: None,
    ) -> None:
        """Register with discards for those of sections that lie in its region.

        sections: all of the guest's memory that it may map, at its guest-physical addresses: the section of each device
        whose manager this is, and others, of the same memory or of other ones. The others are boot RAM, which is always
        there: nobody may discard any of it.
        max_bytes, max_mappings: how much the guest may have mapped at a time, in all domains together; each address
        space pins as much as its domain maps, and has a mapping for each section that a mapping lies in: these are
        counted. coordination: the claims on the region's memory (default: DiscardCoordination.of it).

        revoked: called with a domain and those of its mappings that are gone because their memory is; the guest must
        learn of it. unmapped: called with a domain and mappings that are gone because the guest, or close(), has taken
        them back; whoever tracks dirty pages marks them, because their log is gone, too. Both are called with the lock
        held, after the change: what they raise is logged and counted, and changes nothing.

        Raises InvalidArgument, and DiscardRefused if somebody discards memory without telling anyone.
        """
        self._discards = discards
        memory = GuestMemory(discards, sections)
        self._guest = Guest(self.name, discards, memory, max_bytes=max_bytes, max_mappings=max_mappings)
        self._guest.repair = self.repair
        self._revoked = revoked
        self._unmapped = unmapped
        self._domains: dict[GuestBooks, GuestDomain] = {}
        self._count = 0
        self._was_unsure = False
        # Its registration ends first: what is left of a close that was broken off is done by the next one.
        self._is_over = False
        with ExitStack() as undo:
            coordination = coordination or DiscardCoordination.of(discards.memory)
            uses = {coordination: DiscardUse.DISABLE_UNCOORDINATED}
            for section in sections:
                if section.memory is not discards.memory:
                    # Nobody would tell of a discard there.
                    uses.setdefault(DiscardCoordination.of(section.memory), DiscardUse.DISABLE)
            for claims, use in uses.items():
                undo.callback(claims.hold(use, self.name).release)
            with ExitStack() as registered:
                for section in memory.managed:
                    discards.register(self, section)
                    registered.callback(discards.unregister, self, section)
                registered.pop_all()
            self._holds = undo.pop_all()

    @property
    def domains(self) -> tuple[GuestDomain, ...]:
        """The domains that are open, in the order in which they were opened."""
        with self._guest.lock:
            return () if self._guest.closed else tuple(domain for _, domain in self._open_domains())

    @property
    def mapped_bytes(self) -> int:
        """Bytes the guest has mapped in all domains; a page that is mapped twice counts twice."""
        with self._guest.lock:
            return sum(books.table.bytes for books in self._guest.books)

    @property
    def mapping_count(self) -> int:
        """How many mappings count for max_mappings."""
        with self._guest.lock:
            return sum(books.table.parts for books in self._guest.books)

    @property
    def refusals(self) -> Mapping[Refusal, int]:
        """How often a map or unmap was refused, by reason. A reason that was never given has no key."""
        with self._guest.lock:
            return MappingProxyType(dict(self._guest.refusals))

    @property
    def failures_to_tell(self) -> int:
        """How often revoked or unmapped has raised something."""
        return self._guest.telling.failures

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """What address spaces lack of the guest's mappings just now. All of them are looked at.

        Those of them that are in the region are in the divergences of its manager, too.
        """
        with self._guest.lock:
            return () if self._guest.closed else tuple(self._lacking())

    def open_domain(self, name: str | None = None) -> GuestDomain:
        """A domain without mappings, until it is closed.

        name: for messages (default: domain 1, domain 2, …). Raises ClosedError.
        """
        with self._guest.lock:
            self._guest.require_open("open a domain of the")
            self._count += 1
            books = GuestBooks(name or f"domain {self._count}", self._discards.memory, self._discards.granularity)
            domain = GuestDomain(self._guest, books, self._unmapped)
            self._domains = {known: self._domains[known] for known in self._guest.books}
            self._domains[books] = domain
            self._guest.books = [*self._guest.books, books]
            return domain

    def repair(self) -> tuple[Divergence, ...]:
        """Make mappings again that an address space lacks, in the region and elsewhere; return what is left of that."""
        with self._guest.lock:
            if self._guest.closed:
                return ()
            self._guest.unsure = True
            self._discards.repair()
            for books in self._guest.books:
                always = [each for each in books.table.all() if not self._guest.memory.managed_parts(each.parts)]
                books.restore(always)
            left = self.divergences
            self._guest.unsure = bool(left)
            return left

    def close(self) -> None:
        """Unmap everything, end every domain, leave the manager, and let others discard memory again.

        Raises what unmap_dma raises, with everything as before, or divergences says what is not; it is not closed then,
        and close() can be called again. Closing twice is harmless.
        """
        with self._guest.lock:
            if self._is_over:
                return
            with self._guest.change():
                self._unregister()
                gone = [(domain, books.table.all()) for books, domain in self._open_domains()]
                for books in self._guest.books:
                    books.end()
                self._holds.close()
                self._guest.books = []
                self._is_over = True
            for domain, mappings in gone:
                if mappings:
                    self._guest.telling.tell(self._unmapped, domain, mappings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, section: Section, granularity: int) -> None:
        """Any section that it has, in any unit: pages are any unit's multiple."""

    def populate(self, section: Section, granularity: int) -> None:  # noqa: ARG002 (the listener's signature)
        """Map again what a discard took that is being undone. Memory that is populated anew has no mappings.

        Raises what map_dma raises, after all others are mapped: the next repair() has less to do.
        """
        failures = [failure for books in self._guest.books for failure in books.restore(books.table.over(section.run))]
        if failures:
            raise failures[0]

    def discard(self, section: Section) -> None:
        """Unmap what is mapped of section.

        Raises what unmap_dma raises, with all of it mapped again, or ListenerDiverged that says what is not.
        """
        was_unsure = self._guest.unsure
        with self._guest.change():
            self._take(lambda books: books.table.over(section.run), ExitStack())
        if any(books.table.over(section.run) for books in self._guest.books):
            # Until discarded(): they are in the books, and nowhere else.
            self._guest.unsure, self._was_unsure = True, was_unsure

    def discarded(self, section: Section) -> None:
        """Forget the mappings that discard() took, and tell revoked of them."""
        if self._guest.closed:
            # They are gone because it closes, and unmapped is told of that.
            return
        if self._revoke(lambda books: books.table.over(section.run)):
            self._guest.unsure = self._was_unsure

    def lost(self, section: Section, *, thorough: bool) -> Sequence[Section]:
        """The memory of mappings that some address space does not hold any more, though nobody has taken them back."""
        look = thorough or self._guest.unsure
        if self._guest.unsure:
            self._revoke(self._discarded_unheard)
        missing: list[GuestMapping] = []
        for books in self._guest.books:
            missing += books.missing(partial(books.table.over, section.run), thorough=look)
        if self._guest.unsure and not missing and not self.divergences:
            self._guest.unsure = False
        parts = [section.intersect(run) for mapping in missing for run in mapping.runs_of(section.memory)]
        return [part for part in parts if part is not None]

    def doubted(self, section: Section) -> Sequence[Section]:
        """The memory of mappings of which an address space does not know whether it has them."""
        found = [each for books in self._guest.books for each in books.doubted(partial(books.table.over, section.run))]
        parts = [section.intersect(run) for mapping in found for run in mapping.runs_of(section.memory)]
        return [part for part in parts if part is not None]

    def require_room(self, section: Section, granularity: int) -> None:
        """Do nothing: what is plugged comes without mappings."""

    def registered(self, section: Section, repair: Callable[[], Sequence[str]]) -> None:
        """Do nothing: repair() has the manager give again what is lost, and more."""

    def released(self, section: Section) -> None:
        """Do nothing: close() has given up everything."""

    def _revoke(self, find: Callable[[GuestBooks], Sequence[GuestMapping]]) -> int:
        """Strike what find() gives of each domain, which no address space has, and tell revoked. Return how many."""
        count = 0
        for books, domain in self._open_domains():
            if gone := find(books):
                books.table.remove(gone)
                count += len(gone)
                self._guest.telling.tell(self._revoked, domain, gone)
        if count:
            _log.info("%s: %d mappings revoked with their memory", self.name, count)
        return count

    def _discarded_unheard(self, books: GuestBooks) -> list[GuestMapping]:
        """Mappings whose memory was discarded by a call that was broken off before discarded()."""
        are_populated = self._guest.memory.are_populated
        gone = [mapping for mapping in books.table.all() if not are_populated(mapping.parts)]
        return [mapping for mapping in gone if not any(space.holds(mapping) for space in books.spaces)]

    def _open_domains(self) -> list[tuple[GuestBooks, GuestDomain]]:
        return [(books, self._domains[books]) for books in self._guest.books]

    def _take(self, find: Callable[[GuestBooks], Sequence[GuestMapping]], undo: ExitStack) -> None:
        """Unmap what find() gives of each domain, the last one first. undo maps it again.

        Raises what unmap_dma raises, with all of it mapped again, or ListenerDiverged that says what is not.
        """
        lost: list[GuestMapping] = []
        try:
            with ExitStack() as taken:
                for books in reversed(self._guest.books):
                    books.take(find(books), taken, lost)
                undo.push(taken.pop_all())
        except VfioError as error:
            if not lost:
                raise
            raise self._guest.diverged("unmap", lost, "is no longer mapped in some address space", error) from error

    def _unregister(self) -> None:
        """Unmap everything, and be told of no discard any more. Raises as close() does, with everything mapped."""
        undo = ExitStack()
        try:
            self._take(lambda books: books.table.all(), undo)
            self._guest.closed = True
            if self._discards.sections(self):
                self._discards.unregister(self)
        except BaseException:
            # What nobody is told of any more must not be mapped again.
            if self._discards.sections(self):
                self._guest.closed = False
                undo.close()
            raise

    def _lacking(self) -> Iterator[Divergence]:
        for books in self._guest.books:
            missing = books.missing(books.table.all, thorough=True)
            for section in self._guest.memory.joined(part for mapping in missing for part in mapping.parts):
                yield Divergence(self.name, section, stale=False, error=f"an address space of {books.name} lacks it")
