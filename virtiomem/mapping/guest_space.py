"""GuestSpace: an address space in which a guest's mappings are made."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress

from pyvfio.dma import AddressSpace, MappedRun
from pyvfio.errors import AlreadyMapped, ShortUnmap, VfioError
from virtiomem.discard import few
from virtiomem.mapping.claims import Claims
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.presence import is_closed
from virtiomem.runs import Run

_END = 1 << 64

Piece = tuple[MappedRun, GuestMapping]
"""One mapping of an address space, and the mapping of the guest's that it is a part of."""


class GuestSpace:
    """An address space that has joined a domain of a guest, which chooses the addresses in it until leave().

    Other GuestIommus may use the same address space, and DMA mappers may not. What others have mapped there stays.
    space: the caller's.
    """

    def __init__(self, name: str, space: AddressSpace, repair: Callable[[], Sequence[object]]) -> None:
        """name: of who maps, for messages. repair: maps again what is lost; returns what is left of that.

        Raises AlreadyMapped if a DMA mapper is registered for the address space.
        """
        self.space = space
        self._name = name
        self._repair = repair
        self._has_left = False
        self._claim = Claims.of(space).take(name, Run(0, _END), shared=True)

    @property
    def closed(self) -> bool:
        """Whether the address space is closed, and its mappings are gone with it."""
        return is_closed(self.space)

    def leave(self) -> None:
        """Let others use its addresses. Leaving twice is harmless."""
        self._has_left = True
        self._claim.release()

    def restore(self) -> None:
        """A group was attached: map what is not mapped. Raises VfioError, which refuses the group, if that fails."""
        if not self._has_left and (left := self._repair()):
            raise VfioError(errno.EIO, f"attach a group to {self.space.name}", meaning=few(left, "; "))

    def holds(self, mapping: GuestMapping) -> bool:
        """Whether all of just this is mapped."""
        return all(self._has(run) for run in mapping.mapped_runs())

    def doubts(self, mapping: GuestMapping) -> bool:
        """Whether it cannot be known of some of this whether it is mapped."""
        spans = [(run.iova, run.end) for run in self.space.unconfirmed()]
        return any(run.iova < end and start < run.end for run in mapping.mapped_runs() for start, end in spans)

    def still(self, made: Iterable[Piece]) -> list[GuestMapping]:
        """The mappings of which something is mapped, of what map_new() has made."""
        return list(dict.fromkeys(mapping for run, mapping in made if self._has(run)))

    def map_new(self, mappings: Iterable[GuestMapping], made: list[Piece], undo: ExitStack) -> None:
        """Map what is not mapped yet, ascending. made: gets what is mapped, before the address space is asked.

        undo takes that back as far as it can, and nothing of anybody else's. Raises AlreadyMapped, and what map_dma
        raises.
        """
        undo.callback(self._take_back, made)
        for piece in _pieces(mappings):
            run, _ = piece
            if there := self.space.mappings_in(run.iova, run.size):
                meaning = f"{there[0].iova:#_x}-{there[0].end - 1:#_x} is mapped already, by somebody else"
                raise AlreadyMapped(errno.EEXIST, f"map by the {self._name}", {"iova": run.iova}, meaning)
            made.append(piece)
            self._map(run)

    def map_again(self, mapping: GuestMapping) -> None:
        """Map what is not mapped any more of a mapping. Raises what map_dma raises, VfioError for what is in doubt."""
        for run in mapping.mapped_runs():
            if not self._has(run):
                self._map(run)
            elif self.space.confirm(run.iova, run.size):
                meaning = "the kernel does not tell whether it is mapped"
                arguments = {"iova": run.iova, "size": run.size}
                raise VfioError(errno.EIO, f"map again by the {self._name}", arguments, meaning)

    def unmap(self, neighbours: Sequence[GuestMapping], undo: ExitStack, lost: list[GuestMapping]) -> None:
        """Unmap what is mapped, with one call if nothing of anybody else's lies between.

        neighbours: ascending, without another mapping of the domain between them. undo maps it again. lost: gets what
        that fails for. Raises what unmap_dma raises, and ShortUnmap.
        """

        def unmap(alone: bool) -> None:
            for stretch in self._stretches(list(_pieces(neighbours)), over_holes=alone):
                undo.callback(self._put_back, stretch, lost)
                self._unmap(stretch)

        # Nobody joins meanwhile, who could map in a hole of what is about to be unmapped.
        self._claim.undisturbed(unmap)

    def _has(self, run: MappedRun) -> bool:
        return run in self.space.mappings_in(run.iova, run.size)

    def _map(self, run: MappedRun) -> None:
        self.space.map_dma(run.iova, run.memory, run.offset, run.size, run.access)

    def _stretches(self, pieces: Sequence[Piece], *, over_holes: bool) -> list[list[Piece]]:
        """What is mapped of pieces, ascending, as lists that one call unmaps without anything else.

        over_holes: whether addresses may lie between the pieces of a list, at which nothing is mapped.
        """
        stretches: list[list[Piece]] = []
        if not pieces:
            return stretches
        ours = {piece[0].iova: piece for piece in pieces}
        start, end = pieces[0][0].iova, pieces[-1][0].end
        is_open = False
        for there in self.space.mappings_in(start, end - start):
            piece = ours.get(there.iova)
            if piece is None or piece[0] != there:
                is_open = False
                continue
            if is_open:
                first, last = stretches[-1][0][0], stretches[-1][-1][0]
                # No call takes a size of 2^64.
                is_open = (over_holes or last.end == there.iova) and there.end - first.iova < _END
            if not is_open:
                stretches.append([])
                is_open = True
            stretches[-1].append(piece)
        return stretches

    def _unmap(self, stretch: Sequence[Piece]) -> None:
        iova, size = _span(stretch)
        expected = sum(run.size for run, _ in stretch)
        returned = self.space.unmap_dma(iova, size)
        if returned != expected:
            meaning = f"{returned:#_x} bytes came off where {expected:#_x} were mapped"
            raise ShortUnmap(errno.EIO, f"unmap by the {self._name}", {"iova": iova, "size": size}, meaning)

    def _put_back(self, stretch: Sequence[Piece], lost: list[GuestMapping]) -> None:
        # What stays in doubt stays in the books: doubts() tells.
        with suppress(VfioError):
            self.space.confirm(*_span(stretch))
        there = set(self.space.mappings_in(*_span(stretch)))
        for run, mapping in stretch:
            if run not in there:
                try:
                    self._map(run)
                except VfioError:
                    if mapping not in lost[-1:]:
                        lost.append(mapping)

    def _take_back(self, made: Sequence[Piece]) -> None:
        for stretch in self._stretches(made, over_holes=False):
            # Whoever asked for it finds what is still there.
            with suppress(VfioError):
                self._unmap(stretch)


def _pieces(mappings: Iterable[GuestMapping]) -> Iterator[Piece]:
    return ((run, mapping) for mapping in mappings for run in mapping.mapped_runs())


def _span(stretch: Sequence[Piece]) -> tuple[int, int]:
    iova = stretch[0][0].iova
    return iova, stretch[-1][0].end - iova
