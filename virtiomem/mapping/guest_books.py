"""GuestBooks: what a guest has mapped in one domain, and the address spaces in which it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from pyvfio.dma import AddressSpace
from pyvfio.errors import ClosedError, VfioError
from virtiomem.discard import Backing
from virtiomem.mapping.guest_mappings import GuestMapping, GuestMappingTable
from virtiomem.mapping.guest_space import GuestSpace, Piece

_log = logging.getLogger(__name__)


class GuestBooks:
    """The mappings of one domain, and the address spaces that have joined it. The caller holds the guest's lock.

    A mapping is entered before an address space is asked for it, and struck after all have let go of it. So whatever an
    address space has of the guest's is in the books, wherever a call was broken off; what it lacks is missing().

    name: the domain's, for messages. table: the mappings. spaces: where they are, in the order of joining.
    """

    def __init__(self, name: str, memory: Backing, granularity: int) -> None:
        """memory, granularity: as for GuestMappingTable."""
        self.name = name
        self.table = GuestMappingTable(memory, granularity)
        self.spaces: list[GuestSpace] = []

    def joined(self, space: AddressSpace) -> GuestSpace | None:
        """The address space as it has joined; None if it has not."""
        return next((joined for joined in self.spaces if joined.space is space), None)

    def make(self, mapping: GuestMapping) -> None:
        """Enter a mapping, and make it in every address space.

        Raises what map_dma raises: it is made nowhere then, or it stays in the books because something of it stayed.
        """
        made: dict[GuestSpace, list[Piece]] = {space: [] for space in self.spaces}
        with ExitStack() as undo:
            undo.callback(self._withdraw, mapping, made)
            self.table.add(mapping)
            for space in made:
                try:
                    space.map_new([mapping], made[space], undo)
                except ClosedError:
                    if not self._is_gone(space):
                        raise
            undo.pop_all()

    def enter(self, joining: GuestSpace, made: list[Piece]) -> None:
        """Make all mappings in an address space that joins. made: gets what it is asked for.

        Raises what map_dma raises: it has not joined then, or it has because something of made stayed.
        """
        with ExitStack() as undo:
            undo.callback(self._turn_away, joining, made)
            self.spaces = [*self.spaces, joining]
            joining.map_new(self.table.all(), made, undo)
            undo.pop_all()

    def take(
        self,
        mappings: Sequence[GuestMapping],
        undo: ExitStack,
        lost: list[GuestMapping],
        spaces: Sequence[GuestSpace] | None = None,
    ) -> None:
        """Unmap mappings, ascending, from spaces (default: all), the one that joined last first.

        They stay in the books. undo maps them again; lost gets those for which that fails. Raises what unmap_dma
        raises.
        """
        groups = self.table.neighbours(mappings)
        for space in reversed(self.spaces if spaces is None else spaces):
            for group in groups:
                space.unmap(group, undo, lost)

    def restore(self, mappings: Sequence[GuestMapping]) -> list[VfioError]:
        """Make those of mappings again that an address space lacks. Return why some could not be."""
        failures: list[VfioError] = []
        for space in self.spaces:
            for mapping in mappings:
                try:
                    space.map_again(mapping)
                except VfioError as error:
                    if self._is_gone(space):
                        break
                    failures.append(error)
        return failures

    def missing(self, find: Callable[[], Sequence[GuestMapping]], *, thorough: bool) -> list[GuestMapping]:
        """Those of the mappings to find() that an address space lacks, once for each.

        Unless thorough, they are looked for only where the first mapping of all is missing: an address space that has
        lost its last group has lost every mapping.
        """
        missing: list[GuestMapping] = []
        first = self.table.first
        for space in self.spaces:
            if thorough or (first is not None and not space.holds(first)):
                lacking = [mapping for mapping in find() if not space.holds(mapping)]
                if lacking and not self._is_gone(space):
                    missing += lacking
        return missing

    def doubted(self, find: Callable[[], Sequence[GuestMapping]]) -> list[GuestMapping]:
        """Those of the mappings to find() of which an address space does not know whether it has them."""
        doubting = [space for space in self.spaces if space.space.unconfirmed()]
        return [mapping for mapping in find() if any(space.doubts(mapping) for space in doubting)] if doubting else []

    def let_go(self, leaving: GuestSpace) -> None:
        """Be done with an address space, whatever it has."""
        leaving.leave()
        self.spaces = [joined for joined in self.spaces if joined is not leaving]

    def end(self) -> None:
        """Be done with all address spaces, and with all mappings."""
        for space in self.spaces:
            self.let_go(space)
        self.table.remove(self.table.all())

    def _is_gone(self, space: GuestSpace) -> bool:
        """Whether an address space was closed. Its mappings are gone, and it is let go then, with a line in the log."""
        if not space.closed:
            return False
        what = "is closed, and its mappings are gone with it; all goes on without it"
        _log.warning("%s: %s %s", self.name, space.space.name, what)
        self.let_go(space)
        return True

    def _withdraw(self, mapping: GuestMapping, made: Mapping[GuestSpace, Sequence[Piece]]) -> None:
        if self.table.has(mapping) and not any(space.still(made[space]) for space in made):
            self.table.remove([mapping])

    def _turn_away(self, joining: GuestSpace, made: Sequence[Piece]) -> None:
        if not joining.still(made):
            self.let_go(joining)
