"""BlockRegion: plugs and unplugs the blocks of a memory region, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Protocol

from pyvfio.errors import MappingLimitReached, MemlockExceeded, MemoryUnavailable
from virtiomem.device.answers import BusyReason
from virtiomem.device.blocks import BlockMap
from virtiomem.device.errors import DeviceBusy, StateNotKept
from virtiomem.discard import Backing, ListenerDiverged, RamDiscardManager
from virtiomem.runs import Run, RunSet, intersect, subtract, union

_POPULATED_AT_ONCE: Final = 128 << 20
"""Bytes that are populated, a tenth of a second or so, before it is looked whether the plug was given up."""
_LOOKED_AT_AT_ONCE: Final = 1 << 30
"""Bytes of unplugged blocks that are looked at, in a few milliseconds, before a request has its turn."""
_REASONS: Final = (
    (MappingLimitReached, BusyReason.NO_MAPPINGS_LEFT),
    (MemlockExceeded, BusyReason.MEMLOCK_EXCEEDED),
    (MemoryUnavailable, BusyReason.NO_MEMORY),
    (ListenerDiverged, BusyReason.LISTENER_DIVERGED),
    (StateNotKept, BusyReason.NOT_RECORDED),
)


class Keep(Protocol):
    """Records which runs of blocks are plugged."""

    def __call__(self, plugged: Sequence[Run], *, is_put_back: bool = False) -> None:
        """is_put_back: they still are, as what was recorded has failed; it raises nothing then. Raises OSError."""


class BlockRegion:
    """The blocks of a run of memory. To discards it is the RamDiscardSource that says which are populated.

    Plug: ask for room, populate, listeners take, commit. Unplug: listeners let go, discard, commit. When a step fails,
    what was done before it is undone, and DeviceBusy says why.

    name: the device's. region: the bytes of memory. blocks: which blocks are plugged; the lock of discards guards it.
    Runs called blocks are of block numbers, all others of bytes of memory. The device's lock sees to it that there is
    one change at a time. Memory is populated outside the lock of discards, so that nobody who shares that lock, or
    reads the blocks, waits for it.
    """

    def __init__(
        self,
        memory: Backing,
        region: Run,
        block_size: int,
        discards: RamDiscardManager,
        *,
        name: str,
        prealloc: bool,
        prealloc_threads: int = 1,
        keep: Keep | None = None,
    ) -> None:
        """Discard the region's memory, after its listeners have let go. All blocks are unplugged then.

        block_size: bytes. prealloc, prealloc_threads: whether plug() populates, and with how many threads. keep: what
        it raises undoes the change. Raises OSError, with nothing changed.
        """
        self.name = name
        self.region = region
        self.blocks = BlockMap(region.size // block_size)
        self._memory = memory
        self._block_size = block_size
        self._discards = discards
        self._prealloc = prealloc
        self._prealloc_threads = prealloc_threads
        self._keep = keep
        self._given_up = False
        # Bytes of unplugged blocks that could not be discarded yet.
        self._undiscarded = RunSet()
        with discards.lock, ExitStack() as undo:
            discards.add_source(self)
            undo.callback(discards.remove_source, self)
            memory.discard(region.start, region.size)
            undo.pop_all()

    @property
    def granularity(self) -> int:
        """The block size in bytes."""
        return self._block_size

    def populated_runs(self, within: Run) -> Sequence[Run]:
        """The bytes of within that are plugged, and those outside of the region: other sources decide on these."""
        runs = subtract([within], [self.region])
        for ours in intersect([within], [self.region]):
            first = (ours.start - self.region.start) // self._block_size
            last = -(-(ours.end - self.region.start) // self._block_size)
            plugged = self.blocks.plugged_runs(Run(first, last - first))
            runs += intersect([self.bytes_of(run) for run in plugged], [ours])
        return union(runs)

    def bytes_of(self, blocks: Run) -> Run:
        """The bytes of memory that these blocks are."""
        return Run(self.region.start + blocks.start * self._block_size, blocks.size * self._block_size)

    @property
    def plugged_size(self) -> int:
        """How many bytes are plugged."""
        return self.blocks.plugged * self._block_size

    def plug(self, blocks: Run, limit: int, *, keep: Keep | None = None) -> None:
        """Plug blocks, all of which are unplugged. Raises DeviceBusy, with all of them unplugged.

        limit: bytes of the region that may be held afterwards, also by listeners that would not let go of blocks that
        are unplugged. keep: in place of the region's.
        """
        run = self.bytes_of(blocks)
        self._require_discarded(run)
        self._require_below(limit - run.size)
        with busy("plug", BusyReason.MAPPING_REFUSED):
            self._discards.require_room(run)
        # Until they are plugged.
        self._undiscarded.add(run)
        with ExitStack() as undo:
            undo.callback(self._give_back, run)
            if self._prealloc:
                self._populate(run)
            with busy("plug", BusyReason.MAPPING_REFUSED), self._discards.populating(self, run) as commit:
                commit.callback(self._undiscarded.add, run)
                commit.callback(self._record, keep, is_put_back=True)
                commit.callback(self.blocks.unplug, blocks)
                self.blocks.plug(blocks)
                self._record(keep)
            undo.pop_all()
        self._undiscarded.remove(run)

    def load(self, plugged: Sequence[Run], commit: Callable[[], object]) -> None:
        """Plug all these runs of blocks, where no block is plugged. Raises DeviceBusy, with none plugged.

        commit: records them all, when they are; until then what was recorded stands.
        """
        with ExitStack() as undo:
            for blocks in plugged:
                self.plug(blocks, self.region.size, keep=_keep_nothing)
                undo.callback(self.unplug, blocks, "load state", keep=_keep_nothing)
            with busy("load state", BusyReason.NOT_RECORDED):
                commit()
            undo.pop_all()

    def unplug(self, blocks: Run, operation: str = "unplug", *, keep: Keep | None = None) -> None:
        """Unplug blocks, at least one of which is plugged. Raises DeviceBusy, with all of them as they were.

        operation: what it is done for, in the message. keep: in place of the region's.
        """
        run = self.bytes_of(blocks)
        # Listeners first: pages discarded under a pin stay the device's.
        with busy(operation, BusyReason.DISCARD_FAILED), self._discards.discarding(self, run) as commit:
            # Before what is in them is gone: it must not be what cannot be recorded that is refused then.
            commit.callback(self._record, keep, is_put_back=True)
            self._record(keep, without=blocks)
            self._memory.discard(run.start, run.size)
            for plugged in self.blocks.plugged_runs(blocks):
                commit.callback(self.blocks.plug, plugged)
            self.blocks.unplug(blocks)
        self._undiscarded.remove(run)

    def reclaim(self) -> bool:
        """Discard what earlier failures left populated of unplugged blocks; return whether nothing of it is left."""
        if self._undiscarded:
            self._discards.repair()
            for left in self._undiscarded:
                self._give_back(left)
        return not self._undiscarded

    def reclaim_stray(self, first: int) -> tuple[int, int, int]:
        """Give back what somebody has populated of unplugged blocks, in a piece of the region from block first on.

        Returns the first block behind the piece, how many bytes were given back, and from which unplugged block on.
        """
        piece = Run(first, min(max(_LOOKED_AT_AT_ONCE // self._block_size, 1), self.blocks.count - first))
        given, where = 0, first
        for blocks in self.blocks.unplugged_runs(piece):
            # What an earlier failure has left is another matter: a device may still reach it.
            for run in subtract([self.bytes_of(blocks)], list(self._undiscarded)):
                if not self._discards.holds(run):
                    where = where if given else (run.start - self.region.start) // self._block_size
                    with suppress(OSError):
                        given += self._memory.reclaim(run.start, run.size)
        return piece.end, given, where

    def leave(self) -> None:
        """Decide on the region no more. Nothing is plugged, and all of it stays discarded. Cannot fail."""
        self._discards.retire_source(self)

    def give_up(self) -> None:
        """Let a plug() that is populating end with DeviceBusy, and every later one. Safe from any thread."""
        self._given_up = True

    def _record(self, keep: Keep | None, without: Run | None = None, *, is_put_back: bool = False) -> None:
        """Have it recorded that the plugged blocks are, but for those of without. Raises OSError, as Keep does."""
        if self._keep is not None:
            plugged = self.blocks.plugged_runs()
            runs = plugged if without is None else subtract(plugged, [without])
            (keep or self._keep)(runs, is_put_back=is_put_back)

    def _populate(self, run: Run) -> None:
        """Have the host give the pages of run, as long as nobody gives it up. Raises DeviceBusy."""
        step = max(_POPULATED_AT_ONCE, self._memory.page_size)
        for start in range(run.start, run.end, step):
            if self._given_up:
                raise DeviceBusy("plug", BusyReason.STOPPING, "whoever serves the device is about to end")
            with busy("plug", BusyReason.NO_MEMORY):
                self._memory.populate(start, min(step, run.end - start), threads=self._prealloc_threads)

    def _give_back(self, run: Run) -> None:
        """Discard the memory of unplugged blocks, or remember to do it later: a listener may still hold it.

        It is told of blocks that were to be plugged, too; those that are, after all, keep theirs.
        """
        self._undiscarded.remove(run)
        for unplugged in subtract([run], self.populated_runs(run)):
            self._undiscarded.add(unplugged)
            if not self._discards.holds(unplugged):
                with suppress(OSError):
                    self._memory.discard(unplugged.start, unplugged.size)
                    self._undiscarded.remove(unplugged)

    def _require_discarded(self, run: Run) -> None:
        """Raises DeviceBusy if pages that an earlier failure left in run cannot be discarded now."""
        self.reclaim()
        if self._undiscarded.overlap(run):
            held = self._discards.holds(run)
            raise DeviceBusy("plug", BusyReason.LISTENER_DIVERGED if held else BusyReason.DISCARD_FAILED)

    def _require_below(self, limit: int) -> None:
        """Raises DeviceBusy if more than limit bytes are plugged, or held by listeners although they are unplugged."""
        with self._discards.lock:
            stale = self._discards.stale(self.region)
            if not stale:
                return
            stale = subtract(stale, self.populated_runs(self.region))
        held = sum(run.size for run in stale)
        if held and self.plugged_size + held > limit:
            meaning = f"listeners still hold {held:#_x} bytes of unplugged blocks: with these they would hold too much"
            raise DeviceBusy("plug", BusyReason.LISTENER_DIVERGED, meaning)


def _keep_nothing(plugged: Sequence[Run], *, is_put_back: bool = False) -> None:
    """A Keep for what is not to be recorded yet."""


@contextmanager
def busy(operation: str, otherwise: BusyReason) -> Iterator[None]:
    """Raise DeviceBusy for an OSError of the block: with the reason that the error has, or the one called otherwise."""
    try:
        yield
    except OSError as error:
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), otherwise)
        raise DeviceBusy(operation, reason, str(error)) from error
