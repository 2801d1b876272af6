"""GuestDomain: an address space that a guest has made in its IOMMU, and what it maps there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from pyvfio.dma import Access, AddressSpace, AttachesGroups
from pyvfio.errors import ClosedError, InvalidArgument, VfioError
from virtiomem.mapping.errors import Refusal
from virtiomem.mapping.guest import ADDRESS_LIMIT, Guest
from virtiomem.mapping.guest_books import GuestBooks
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.guest_space import GuestSpace, Piece


class GuestDomain:
    """What a guest maps at device addresses of its own choosing, in every address space that has joined the domain.

    GuestIommu.open_domain() makes it. An address space of the host joins with the devices that the guest attaches, and
    leaves with them: the containers of several devices may be in one domain, and each is in one at most. An Ioas, to
    which any device can be attached, may be all that a domain needs. Address spaces stay the caller's. One that is
    closed is let go, with a line in the log; one that has lost its mappings otherwise is a divergence of the IOMMU
    until they are made again, which is before a device of a group that is attached is opened.

    Methods may be called from any thread: the lock of the guest's memory guards them. name: for messages.
    """

    def __init__(
        self,
        guest: Guest,
        books: GuestBooks,
        unmapped: Callable[[GuestDomain, Sequence[GuestMapping]], object],
    ) -> None:
        self._guest = guest
        self._books = books
        self._unmapped = unmapped
        self.name = books.name

    @property
    def closed(self) -> bool:
        """Whether the domain is no more."""
        return self._guest.closed or self._books not in self._guest.books

    @property
    def mappings(self) -> tuple[GuestMapping, ...]:
        """What the guest has mapped, ascending by device address."""
        with self._guest.lock:
            return self._books.table.all()

    @property
    def mapped_bytes(self) -> int:
        """Bytes the guest has mapped; a page that is mapped twice counts twice."""
        with self._guest.lock:
            return self._books.table.bytes

    @property
    def spaces(self) -> tuple[AddressSpace, ...]:
        """The address spaces that have joined, in the order in which they have."""
        with self._guest.lock:
            return tuple(joined.space for joined in self._books.spaces)

    def map(self, iova: int, address: int, size: int, access: Access = Access.READ_WRITE) -> None:
        """Map size bytes of the guest's memory, from its guest-physical address, at iova. All are bytes, whole pages.

        Memory of several sections is several mappings of each address space, and one of the guest's.

        Raises GuestMappingRefused, with nothing mapped. If one address space refuses, and another cannot be made to let
        go, the __cause__ is a ListenerDiverged, and the mapping stays the guest's until unmap() or a discard.
        """
        with self._guest.lock:
            self._prepare("map in")
            mapping = self._guest.admit(self._books, iova, address, size, access)
            try:
                with self._guest.change():
                    self._make(mapping)
            except VfioError as error:
                code = error.errno or errno.EIO
                raise self._guest.refused("map", self._books, mapping, Refusal.HOST, code, str(error)) from error

    def unmap(self, iova: int, size: int) -> int:
        """Take back every mapping from iova to iova + size for the guest; return how many bytes were unmapped.

        Each address space is asked once, however many mappings there are, unless something that is not the guest's is
        mapped between them. What is not mapped is no error: 0 is returned if nothing is.

        Raises GuestMappingRefused for a range that cuts a mapping, or if an address space refuses. Everything is mapped
        as before then, unless the __cause__ is a ListenerDiverged.
        Source: virtio 1.3, 5.13.6.6, the device's part of UNMAP.
        """
        with self._guest.lock:
            self._require_open("unmap in")
            span = GuestMapping(iova, 0, size, Access(0))
            if size <= 0 or iova < 0 or span.end > ADDRESS_LIMIT:
                raise self._guest.refused("unmap", self._books, span, Refusal.INVALID, errno.EINVAL)
            leaving = self._books.table.at(iova, size)
            for end in (leaving[:1], leaving[-1:]):
                if end and (end[0].iova < iova or end[0].end > span.end):
                    meaning = f"it would cut {end[0]}"
                    raise self._guest.refused("unmap", self._books, span, Refusal.SPLIT, errno.EINVAL, meaning)
            try:
                with self._guest.change():
                    self._take(leaving, advice="Unmap it again")
                    self._books.table.remove(leaving)
            except VfioError as error:
                code = error.errno or errno.EIO
                raise self._guest.refused("unmap", self._books, span, Refusal.HOST, code, str(error)) from error
            self._tell(leaving)
            return sum(mapping.size for mapping in leaving)

    def join(self, space: AddressSpace) -> None:
        """Let the devices of space reach what the guest has mapped, from now on.

        Raises InvalidArgument if space has joined a domain already, AlreadyMapped if a DMA mapper is registered for it,
        and what map_dma raises; it has not joined then, and nothing is mapped. Raises ListenerDiverged if something
        stayed mapped: space has joined then, so call leave().
        """
        with self._guest.lock:
            self._prepare(f"{space.name} joins")
            if other := self._guest.joined(space):
                operation = f"{space.name} joins {self.name}"
                raise InvalidArgument(errno.EEXIST, operation, meaning=f"it has joined {other.name} already")
            page_size = space.page_sizes[0]
            joining = GuestSpace(self._guest.name, space, self._guest.repair)
            with self._guest.change():
                self._enter(joining)
            if isinstance(space, AttachesGroups):
                space.on_attach(joining.restore)
            # The largest unit stays, even when its space leaves: it may join again, and must be able to map all.
            self._guest.page_size = max(self._guest.page_size, page_size)

    def leave(self, space: AddressSpace) -> None:
        """Take from space all that the guest has mapped, with one call where that can be.

        Raises InvalidArgument if space has not joined, and what unmap_dma raises; it stays joined then, with all that
        it had mapped, or ListenerDiverged says what it has no longer.
        """
        with self._guest.lock:
            self._require_open(f"{space.name} leaves")
            leaving = self._books.joined(space)
            if leaving is None:
                raise InvalidArgument(errno.ENOENT, f"{space.name} leaves {self.name}", meaning="it never joined")
            with self._guest.change():
                self._take(self._books.table.all(), [leaving], "Let it leave again")
                self._books.let_go(leaving)

    def close(self) -> None:
        """Unmap everything, let every address space leave, and end the domain. Closing twice is harmless.

        Raises what unmap_dma raises, with everything as before, or ListenerDiverged says what is not; it is not closed
        then, and close() can be called again.
        """
        with self._guest.lock:
            if self.closed:
                return
            mappings = self._books.table.all()
            with self._guest.change():
                self._take(mappings, advice="Close it again")
                self._books.end()
                self._guest.books = [books for books in self._guest.books if books is not self._books]
            self._tell(mappings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_open(self, operation: str) -> None:
        self._guest.require_open(f"{operation} {self.name} of the")
        if self.closed:
            raise ClosedError(errno.EBADF, f"{operation} {self.name}", meaning="it is closed")

    def _prepare(self, operation: str) -> None:
        """Before every change that adds to the address spaces, or counts on what they have: see that they have it."""
        self._require_open(operation)
        if self._guest.unsure:
            self._guest.repair()

    def _make(self, mapping: GuestMapping) -> None:
        try:
            self._books.make(mapping)
        except VfioError as error:
            if not self._books.table.has(mapping):
                raise
            what = "is still mapped in some address space"
            raise self._guest.diverged("map", [mapping], what, error, "Unmap it") from error

    def _enter(self, joining: GuestSpace) -> None:
        made: list[Piece] = []
        try:
            self._books.enter(joining, made)
        except VfioError as error:
            if joining not in self._books.spaces:
                raise
            raise self._guest.diverged("join", joining.still(made), "stayed mapped", error, "Let it leave") from error

    def _take(
        self, mappings: Sequence[GuestMapping], spaces: Sequence[GuestSpace] | None = None, advice: str = ""
    ) -> None:
        """Unmap mappings from spaces (default: all). Raises what unmap_dma raises, with everything mapped again, or
        ListenerDiverged if some of it could not be."""
        lost: list[GuestMapping] = []
        try:
            with ExitStack() as undo:
                self._books.take(mappings, undo, lost, spaces)
                undo.pop_all()
        except VfioError as error:
            if not lost:
                raise
            what = "is no longer mapped in some address space"
            raise self._guest.diverged("unmap", lost, what, error, advice) from error

    def _tell(self, mappings: Sequence[GuestMapping]) -> None:
        if mappings:
            self._guest.telling.tell(self._unmapped, self, mappings)
