"""GuestMemory: what the devices of one guest reach of its memory, in one address space."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pyvfio.dma import MappingSpace, TakesUp
from pyvfio.errors import AlreadyMapped, VfioError
from pyvfio.kernel import Kernel, host_page_size
from pyvfio.lifetime import lock_of
from pyvfio.memory import SharedMemory
from pyvfio.vfio_user.guest_range import GuestRange
from pyvfio.vfio_user.ranges import Ranges

_FIRMWARE_END: Final = 1 << 20
_MOST_BYTES: Final = 1 << 44
"""Bytes of a guest's memory: no client can have this process run out of addresses."""
_LARGEST_PAGE: Final = 1 << 34
"""Bytes of a page. Linux has none that is larger; a file system may say what it likes."""

Wanted = Callable[[GuestRange], Iterable[GuestRange]]
"""Which parts of a range that a client told of are to be mapped, each by one mapping. The range is in a file."""


def whole(part: GuestRange) -> Iterable[GuestRange]:
    """All of a range, cut at 1 MiB.

    Below that a PC's firmware and its kernel change again and again what is memory and what is ROM; QEMU then takes
    away all of the guest's memory and gives it back in other pieces. Cut here, what is above stays mapped.
    """
    if part.address < _FIRMWARE_END < part.end:
        return part.part(part.address, _FIRMWARE_END), part.part(_FIRMWARE_END, part.end)
    return (part,)


@dataclass(slots=True, eq=False)
class _Told:
    """What owner told of: a range, a descriptor of its file, and the pieces of it that are wanted."""

    owner: object
    part: GuestRange
    fd: int
    pieces: tuple[GuestRange, ...]


class GuestMemory:
    """Keeps an address space as the clients of one guest want it: a piece is mapped while one of them tells of it.

    Each device of the guest has a connection of its own, and each tells of the same memory: listener() makes what takes
    one's part, for a Server. What a burst of messages changes is applied as a difference: unmapped is what nobody wants
    any more, mapped is what is wanted and was not, and what is in both is not touched. A range without a file is taken
    note of and not mapped: registers of another device, or a ROM. While two connections tell of different pieces for
    the same addresses, what is mapped stays until all who want it are gone.

    The pages are pinned, and charged to this process. A client that shortens its file makes devices fail at most, if
    they are real; a simulated one reads memory as the process does, and that ends it (SIGBUS), unless the file is
    sealed (F_SEAL_SHRINK), as QEMU's memory-backend-memfd is.

    Safe from several threads. space: the address space, which stays the caller's; nobody else maps into what clients
    tell of.
    """

    def __init__(self, space: MappingSpace, wanted: Wanted = whole, *, takes_up: bool = False) -> None:
        """wanted: which parts of the ranges are to be mapped; call refresh() when it would say something else.

        takes_up: a process before this one has mapped here, and its client's session is gone on with: what is found
        mapped as it should be is taken up.
        """
        self.space = space
        self._wanted = wanted
        self._takes_up = takes_up
        self._made_by = os.getpid()
        self._own_lock = threading.RLock()
        self._told: dict[tuple[object, int], _Told] = {}
        # By piece: whoever tells of it. In no order but that.
        self._wanting: dict[GuestRange, list[_Told]] = {}
        self._mapped = Ranges()
        self._told_size = 0
        # The pieces of which it has changed whether they are wanted, and those that could not be made so.
        self._changed: dict[GuestRange, None] = {}
        self._generation = space.generation

    def listener(self) -> GuestMemoryListener:
        """What takes one connection's part."""
        return GuestMemoryListener(self)

    def mapped(self) -> tuple[GuestRange, ...]:
        """The pieces that are mapped, by their addresses."""
        with self._lock:
            return tuple(self._mapped)

    def refresh(self) -> Mapping[int, OSError]:
        """Ask again which parts of the ranges are wanted, and apply the difference; what failed, as settle() has it."""
        with self._lock:
            for told in self._told.values():
                pieces = tuple(self._wanted(told.part))
                if pieces != told.pieces:
                    self._unwant(told)
                    told.pieces = pieces
                    self._want(told)
            return self.settle(None)

    def add(self, owner: object, part: GuestRange, fd: int) -> None:
        """owner tells of a range, in the file that fd is of, which stays the caller's. Raises OSError."""
        with self._lock:
            if self._told_size + part.size > _MOST_BYTES:
                raise VfioError(errno.ENOMEM, "map guest memory", {"size": part.size}, "no guest has that much here")
            pieces = tuple(self._wanted(part))
            told = _Told(owner, part, self.space.kernel.dup(fd), pieces)
            self._told[owner, part.address] = told
            self._told_size += part.size
            self._want(told)

    def remove(self, owner: object, address: int) -> None:
        """owner takes a range away. Without one this does nothing."""
        with self._lock:
            told = self._told.pop((owner, address), None)
            if told is not None:
                self._told_size -= told.part.size
                self._unwant(told)
                self.space.kernel.close(told.fd)

    def remove_all(self, owner: object) -> None:
        """owner takes away what it has told of."""
        with self._lock:
            for other, address in list(self._told):
                if other is owner:
                    self.remove(owner, address)

    def settle(self, owner: object) -> Mapping[int, OSError]:
        """Apply what has changed; what failed, by the addresses of owner's ranges, and of pieces that nobody wants.

        owner's ranges that could not be mapped are taken away. Another's are tried again at the next call.
        """
        with self._lock:
            self._notice_loss()
            changed, self._changed = self._changed, {}
            failures: dict[int, OSError] = {}
            for piece in changed:
                if piece in self._mapped and piece not in self._wanting:
                    self._unmap(piece, failures, self._changed)
            refused: set[int] = set()
            for piece in sorted(changed, key=lambda piece: piece.address):
                if piece in self._wanting and piece not in self._mapped:
                    self._map(piece, owner, failures, refused)
            later, self._changed = self._changed, {}
            for address in refused:
                self.remove(owner, address)
            for piece in self._changed:
                # A part of a range of which another part failed.
                if piece in self._wanting:
                    later[piece] = None
                elif piece in self._mapped:
                    self._unmap(piece, failures, later)
            self._changed = later
            return failures

    def _want(self, told: _Told) -> None:
        for piece in told.pieces:
            self._wanting.setdefault(piece, []).append(told)
            self._changed[piece] = None

    def _unwant(self, told: _Told) -> None:
        for piece in told.pieces:
            wanting = self._wanting[piece]
            wanting.remove(told)
            if not wanting:
                del self._wanting[piece]
            self._changed[piece] = None

    def _unmap(self, piece: GuestRange, failures: dict[int, OSError], later: dict[GuestRange, None]) -> None:
        try:
            self.space.unmap_dma(piece.address, piece.size)
        except OSError as error:
            if self.space.mappings_in(piece.address, piece.size):
                failures[piece.address] = error
                later[piece] = None
                return
        self._mapped.remove(piece.address)

    def _map(self, piece: GuestRange, owner: object, failures: dict[int, OSError], refused: set[int]) -> None:
        told = self._wanting[piece][0]
        try:
            self._map_from(piece, told.fd)
        except OSError as error:
            others = self._mapped.touching(piece.address, piece.size) if isinstance(error, AlreadyMapped) else []
            addresses = [told.part.address for told in self._wanting[piece] if told.owner is owner]
            if (others and all(other in self._wanting for other in others)) or not addresses:
                # Another connection has yet to take away what is there.
                self._changed[piece] = None
                return
            failures.update(dict.fromkeys(addresses, error))
            refused.update(addresses)
        else:
            self._mapped.add(piece)

    def _map_from(self, piece: GuestRange, fd: int) -> None:
        assert piece.place is not None
        # A piece begins where the guest's memory does, which need not be at a huge page of its file.
        page_size = _page_size(fd)
        within = piece.place.offset % page_size
        size = -(-(within + piece.size) // page_size) * page_size
        kernel: Kernel = self.space.kernel
        # The address space keeps it as long as it is mapped.
        with SharedMemory(size, page_size=page_size, kernel=kernel) as memory:
            copy = kernel.dup(fd)
            try:
                memory.attach(copy, piece.place.offset - within)
            except BaseException:
                kernel.close(copy)
                raise
            arguments = piece.address, memory, within, piece.size, piece.access
            if not (self._takes_up and isinstance(self.space, TakesUp) and self.space.take_up(*arguments)):
                self.space.map_dma(*arguments)

    def _notice_loss(self) -> None:
        """What the address space has lost with its last group is to be mapped again."""
        if self._generation != self.space.generation:
            self._generation = self.space.generation
            self._changed.update(dict.fromkeys(self._mapped))
            self._mapped = Ranges()

    @property
    def _lock(self) -> threading.RLock:
        return lock_of(self._made_by, self._own_lock)


class GuestMemoryListener:
    """A DmaListener: one connection's part of a GuestMemory."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def map(self, part: GuestRange, fd: int | None) -> None:
        if fd is not None:
            self._memory.add(self, part, fd)

    def unmap(self, part: GuestRange) -> None:
        self._memory.remove(self, part.address)

    def settle(self) -> Mapping[int, OSError]:
        return self._memory.settle(self)

    def end(self) -> Mapping[int, OSError]:
        self._memory.remove_all(self)
        return self._memory.settle(self)


def _page_size(fd: int) -> int:
    """The page size of a file: a huge page's on hugetlbfs. Others say anything that suits their reads."""
    size = os.fstatvfs(fd).f_bsize
    is_page_size = host_page_size() <= size <= _LARGEST_PAGE and not size & (size - 1)
    return size if is_page_size else host_page_size()
