"""GuestSpace: an address space in which a guest's mappings are made."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pyvfio.dma import AddressSpace
from pyvfio.errors import AlreadyMapped, ShortUnmap, VfioError
from pyvfio.memory import Memory
from virtiomem.discard import few
from virtiomem.mapping.claims import Claims
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.presence import is_closed
from virtiomem.runs import Run

_ADDRESSES = Run(0, 1 << 64)


class GuestSpace:
    """An address space that has joined the IOMMU of a guest, which chooses the addresses in it until leave().

    Mappings are of memory. Other GuestIommus may use the same address space, and DMA mappers may not. space: the
    caller's.
    """

    def __init__(self, name: str, space: AddressSpace, memory: Memory, repair: Callable[[], Sequence[str]]) -> None:
        """name: of who maps, for messages. repair: maps again what is lost; returns what is left of that.

        Raises AlreadyMapped if a DMA mapper is registered for the address space.
        """
        self.space = space
        self._name = name
        self._memory = memory
        self._repair = repair
        self._has_left = False
        self._claim = Claims.of(space).take(name, _ADDRESSES, shared=True)

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
        """Whether just this is mapped."""
        place = (self._memory, mapping.iova, mapping.offset, mapping.size)
        return any(
            (run.memory, run.iova, run.offset, run.size) == place
            for run in self.space.mappings_in(mapping.iova, mapping.size)
        )

    def map(self, mapping: GuestMapping) -> None:
        """Raises what map_dma raises."""
        self.space.map_dma(mapping.iova, self._memory, mapping.offset, mapping.size, mapping.access)

    def map_new(self, mapping: GuestMapping, undo: ExitStack, stuck: list[GuestMapping]) -> None:
        """Map what is not mapped yet. undo takes it back, and nothing of anybody else's that lies there.

        stuck: gets the mapping if it cannot be taken back. Raises AlreadyMapped, and what map_dma raises.
        """
        if there := self.space.mappings_in(mapping.iova, mapping.size):
            meaning = f"{there[0].iova:#_x}-{there[0].end - 1:#_x} is mapped already, by somebody else"
            raise AlreadyMapped(errno.EEXIST, f"map by the {self._name}", {"iova": mapping.iova}, meaning)
        undo.callback(self._take_back, mapping, stuck)
        self.map(mapping)

    def unmap_held(self, mapping: GuestMapping, undo: ExitStack, lost: list[GuestMapping]) -> None:
        """Unmap what is mapped. undo maps it again. lost: gets the mapping if that fails.

        Raises what unmap_dma raises, and ShortUnmap.
        """
        if self.holds(mapping):
            undo.callback(self._map_again, mapping, lost)
            self._unmap(mapping)

    def _unmap(self, mapping: GuestMapping) -> None:
        returned = self.space.unmap_dma(mapping.iova, mapping.size)
        if returned != mapping.size:
            meaning = f"{returned:#_x} bytes came off"
            arguments = {"iova": mapping.iova, "size": mapping.size}
            raise ShortUnmap(errno.EIO, f"unmap by the {self._name}", arguments, meaning)

    def _map_again(self, mapping: GuestMapping, lost: list[GuestMapping]) -> None:
        if not self.holds(mapping):
            try:
                self.map(mapping)
            except VfioError:
                lost.append(mapping)

    def _take_back(self, mapping: GuestMapping, stuck: list[GuestMapping]) -> None:
        if self.holds(mapping):
            try:
                self._unmap(mapping)
            except VfioError:
                if self.holds(mapping):
                    stuck.append(mapping)
