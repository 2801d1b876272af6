"""Section: a part of a memory region where an address space sees it; and what sources and listeners are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from virtiomem.runs import Run


class Backing(Protocol):
    """The memory of a region; pyvfio.memory.Memory is one. Offsets and sizes: bytes, multiples of page_size."""

    @property
    def size(self) -> int: ...

    @property
    def page_size(self) -> int: ...

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        """Back the range with pages of the host, threads at a time. Raises OSError; a part may be populated then."""

    def discard(self, offset: int, size: int) -> None:
        """Give the range's pages back; it reads as zeros afterwards. Raises OSError with nothing changed."""


@dataclass(frozen=True, slots=True)
class Section:
    """size bytes of memory, from offset_within_region, seen at offset_within_address_space; all in bytes."""

    memory: Backing
    offset_within_region: int
    offset_within_address_space: int
    size: int
    readonly: bool = False

    @property
    def run(self) -> Run:
        """The bytes of the memory."""
        return Run(self.offset_within_region, self.size)

    def intersect(self, run: Run) -> Section | None:
        """The part of the section within these bytes of the memory: both offsets move. None if there is none."""
        start, end = max(run.start, self.run.start), min(run.end, self.run.end)
        if start >= end:
            return None
        moved = start - self.offset_within_region
        return replace(
            self,
            offset_within_region=start,
            offset_within_address_space=self.offset_within_address_space + moved,
            size=end - start,
        )

    def __str__(self) -> str:
        end = self.offset_within_address_space + self.size - 1
        return f"{self.offset_within_address_space:#_x}-{end:#_x}"


class RamDiscardSource(Protocol):
    """Decides which parts of a region are populated, and tells the manager before it changes them."""

    @property
    def name(self) -> str: ...

    @property
    def granularity(self) -> int:
        """The unit of change in bytes, a power of two. Changes begin and end at multiples of it in the memory."""

    def populated_runs(self, within: Run) -> Sequence[Run]:
        """The maximal populated runs, clipped to within, ascending; in bytes of the memory."""


class RamDiscardListener(Protocol):
    """Holds what is populated, mapped for DMA for example. Called with the manager's lock held.

    populate and discard change everything or nothing: they raise OSError with the listener as it was before, or
    ListenerDiverged that says what did change. Ends of their sections are multiples of the granularity, or ends of
    the section that was registered.
    """

    @property
    def name(self) -> str: ...

    def accept(self, section: Section, granularity: int) -> None:
        """Raises InvalidArgument if the listener cannot serve section in units of granularity bytes."""

    def populate(self, section: Section, granularity: int) -> None:
        """section, of which nothing is held, is about to be populated. It will be discarded in any multiples of
        granularity bytes."""

    def discard(self, section: Section) -> None:
        """section is about to be discarded: let go of all that is held of it, which may not be all of it. Should the
        discard fail later, what was held is populated again."""

    def discarded(self, section: Section) -> None:
        """section is discarded for good: nothing of it will come back but by being populated anew. Must not fail."""
