"""Guest: what the domains of one guest share: its memory, its limits, and what it was refused."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from pyvfio.dma import Access, AddressSpace
from pyvfio.errors import ClosedError, VfioError
from pyvfio.kernel import host_page_size
from virtiomem.discard import ListenerDiverged, RamDiscardManager, Telling, few
from virtiomem.mapping.errors import GuestMappingRefused, Refusal
from virtiomem.mapping.guest_books import GuestBooks
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.guest_memory import GuestMemory

ADDRESS_LIMIT = 1 << 64


class Guest:
    """One guest, as all of its domains see it. What changes is guarded by lock, which is the manager's.

    name: for messages. memory: what it has. books: those of its open domains. page_size: bytes of the unit of every
    mapping. refusals: how often something was refused, by reason. unsure: whether a call was cut short, so that an
    address space may hold less than the books say. repair: maps again what is lost; returns what is left of that.
    closed: whether its IOMMU is.
    """

    def __init__(
        self, name: str, discards: RamDiscardManager, memory: GuestMemory, *, max_bytes: int, max_mappings: int
    ) -> None:
        self.name = name
        self.lock = discards.lock
        self.memory = memory
        self.max_bytes = max_bytes
        self.max_mappings = max_mappings
        self.books: list[GuestBooks] = []
        self.page_size = host_page_size()
        self.refusals: Counter[Refusal] = Counter()
        self.telling = Telling(name)
        self.unsure = False
        self.repair: Callable[[], Sequence[object]] = tuple
        self.closed = False

    def require_open(self, operation: str) -> None:
        """Raises ClosedError."""
        if self.closed:
            raise ClosedError(errno.EBADF, f"{operation} {self.name}", meaning="it is closed")

    def joined(self, space: AddressSpace) -> GuestBooks | None:
        """The books of the domain that the address space has joined; None if it has joined none."""
        return next((books for books in self.books if books.joined(space)), None)

    def admit(self, books: GuestBooks, iova: int, address: int, size: int, access: Access) -> GuestMapping:
        """The mapping that the guest asks for. Raises GuestMappingRefused for the first reason of those below."""
        asked = GuestMapping(iova, address, size, access)

        def refused(reason: Refusal, code: int, meaning: str) -> GuestMappingRefused:
            return self.refused("map", books, asked, reason, code, meaning)

        page_size = self.page_size
        inside = min(iova, address) >= 0 and max(iova, address) + size <= ADDRESS_LIMIT
        if size <= 0 or not inside or (iova | address | size) % page_size:
            raise refused(Refusal.INVALID, errno.EINVAL, f"not whole pages of {page_size:#_x} of 64-bit addresses")
        if not access:
            raise refused(Refusal.INVALID, errno.EINVAL, "neither readable nor writable")
        parts = self.memory.parts(address, size)
        if parts is None:
            raise refused(Refusal.OUTSIDE, errno.EFAULT, "the guest has no memory at some of these addresses")
        mapping = GuestMapping(iova, address, size, access, parts)
        if any(run.iova % page_size or run.offset % page_size or run.size % page_size for run in mapping.mapped_runs()):
            raise refused(Refusal.INVALID, errno.EINVAL, f"it lies across memory at no multiple of {page_size:#_x}")
        if access & Access.WRITE and any(part.readonly for part in parts):
            raise refused(Refusal.READONLY, errno.EACCES, "devices may only read this memory")
        if other := books.table.at(iova, size):
            raise refused(Refusal.OVERLAP, errno.EEXIST, f"{other[0]} is mapped already")
        if not self.memory.are_populated(parts):
            raise refused(Refusal.DISCARDED, errno.ENXIO, "some of the memory is not plugged")
        if (count := sum(each.table.parts for each in self.books)) + len(parts) > self.max_mappings:
            meaning = f"the guest has {count} mappings of the {self.max_mappings} it may, in all domains"
            raise refused(Refusal.TOO_MANY_MAPPINGS, errno.ENOSPC, meaning)
        if (mapped := sum(each.table.bytes for each in self.books)) + size > self.max_bytes:
            meaning = (
                f"the guest has mapped {mapped:#_x} of the {self.max_bytes:#_x} bytes it may, in all domains "
                "(a page that is mapped twice counts twice)"
            )
            raise refused(Refusal.TOO_MANY_BYTES, errno.ENOMEM, meaning)
        return mapping

    @contextmanager
    def change(self) -> Iterator[None]:
        """For the length of a with block that changes address spaces and books together: if anything but an error that
        has left all as it was ends it, what they have has to be looked at."""
        was_unsure, self.unsure = self.unsure, True
        try:
            yield
        except ListenerDiverged:
            raise
        except VfioError:
            self.unsure = was_unsure
            raise
        self.unsure = was_unsure

    def refused(
        self, operation: str, books: GuestBooks, asked: GuestMapping, reason: Refusal, code: int, meaning: str = ""
    ) -> GuestMappingRefused:
        """The error to raise, which is counted."""
        self.refusals[reason] += 1
        arguments: dict[str, object] = {"iova": asked.iova, "size": asked.size}
        if operation == "map":
            arguments["address"] = asked.address
        return GuestMappingRefused(code, f"guest {operation} in {books.name}", arguments, reason, meaning)

    def diverged(
        self, operation: str, mappings: Iterable[GuestMapping], what: str, error: VfioError, advice: str | None = None
    ) -> ListenerDiverged:
        """The error to raise if error came, and mappings are not as before.

        advice: None where the manager knows of it, and repairs it.
        """
        mappings = list(mappings)
        changed = self.memory.managed_parts(part for mapping in mappings for part in mapping.parts)
        arguments = (f"{operation} by the {self.name}", f"{few(mappings)} {what}: {error}", changed)
        return ListenerDiverged(*arguments) if advice is None else ListenerDiverged(*arguments, advice)
