"""Section: a part of a region's memory where an address space sees it; and what sources and listeners must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from virtiomem.runs import Run


class Backing(Protocol):
    """The memory of a region, pyvfio.memory.Memory for example. Offsets and sizes: bytes, multiples of page_size."""

    @property
    def size(self) -> int:
        """Bytes of the memory."""

    @property
    def page_size(self) -> int:
        """Bytes of a page, the unit of populate() and discard()."""

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        """Back the range with pages of the host, by so many threads. Raises OSError; a part may be populated then."""

    def discard(self, offset: int, size: int) -> None:
        """Give the range's pages back; it reads as zeros afterwards. Raises OSError, with nothing changed."""

    def reclaim(self, offset: int, size: int) -> int:
        """Discard what has pages of the range, as far as that can be told; return how many bytes that were.

        Raises OSError, with nothing changed.
        """


@dataclass(frozen=True, slots=True)
class Section:
    """size bytes of memory, from offset_within_region, that are seen at offset_within_address_space. All are bytes.

    readonly: whether devices may only read them.
    """

    memory: Backing
    offset_within_region: int
    offset_within_address_space: int
    size: int
    readonly: bool = False

    @property
    def run(self) -> Run:
        """The bytes of the memory that the section is."""
        return Run(self.offset_within_region, self.size)

    def intersect(self, run: Run) -> Section | None:
        """The part of the section within these bytes of the memory, with both offsets moved; None if there is none."""
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
    def name(self) -> str:
        """For messages."""

    @property
    def granularity(self) -> int:
        """The unit of change in bytes, a power of two. Changes begin and end at multiples of it in the memory."""

    def populated_runs(self, within: Run) -> Sequence[Run]:
        """The maximal populated runs in bytes of the memory, clipped to within, ascending."""


class RamDiscardListener(Protocol):
    """Holds what is populated, as DMA mappings for example. The manager calls it with its lock held.

    populate and discard change everything or nothing. They raise OSError if nothing has changed, or ListenerDiverged
    that says what has. The ends of their sections are multiples of the granularity, or ends of the section that was
    registered.
    """

    @property
    def name(self) -> str:
        """For messages."""

    def accept(self, section: Section, granularity: int) -> None:
        """It is about to be registered. Raises VfioError if it cannot serve section in units of granularity bytes."""

    def populate(self, section: Section, granularity: int) -> None:
        """Hold section, which is about to be populated, and of which nothing is held.

        It may be discarded later in parts that are multiples of granularity bytes.
        """

    def discard(self, section: Section) -> None:
        """Let go of all that is held of section, which is about to be discarded. Some of it may not be held.

        If the discard fails later, populate() is called for what was held.
        """

    def discarded(self, section: Section) -> None:
        """section is discarded for good: only a later populate() brings it back.

        It is told, and not asked: what it raises is logged and counted, and changes nothing.
        """


@runtime_checkable
class KeepsBooks(Protocol):
    """What a RamDiscardListener has besides if it keeps books of what it holds where others, too, can change that."""

    def registered(self, section: Section, repair: Callable[[], Sequence[str]]) -> None:
        """It is registered for section, which it has accepted.

        repair: has the manager give it again what it has lost; returns what is left of that, a sentence each. It takes
        the manager's lock, so that the caller holds no lock that is taken after that one.
        """

    def lost(self, section: Section, *, thorough: bool) -> Sequence[Section]:
        """The parts of section that it has been given, nobody has discarded, and it does not hold any more.

        A device's address space loses all mappings, for example, when its last group leaves. The manager gives them
        again, or reports them. thorough: look at all of section; otherwise at as much as shows that all is lost.
        """

    def doubted(self, section: Section) -> Sequence[Section]:
        """The parts of section that it has been given, and of which it cannot be known whether it holds them still.

        The manager reports those that are populated, and gives them again. Asked before each change.
        """

    def require_room(self, section: Section, granularity: int) -> None:
        """Raises what populate() would raise for want of room, before any memory is populated for it."""

    def released(self, section: Section) -> None:
        """The registration for section, which began with accept(), has ended or was refused: nothing of it is held."""
