"""DirtyTracker: which pages of plugged memory devices may have written since they were last asked for."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from pyvfio.dma import Access, AddressSpace, DirtyBitmap, MappedRun
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import host_page_size
from virtiomem.discard import RamDiscardManager, Section
from virtiomem.mapping.page_bits import PageBits
from virtiomem.mapping.presence import is_closed
from virtiomem.runs import Run, intersect, subtract

_log = logging.getLogger(__name__)


class DirtyLog(Protocol):
    """The log of what devices write through an address space, until close(); pyvfio.DirtyTracking is one."""

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """What devices have written in the range since it was last read. It cuts no mapping. Raises VfioError."""

    def close(self) -> None:
        """End the log. Raises VfioError."""


@runtime_checkable
class TracksDirty(Protocol):
    """What can log the writes of devices: a Container of type1v2, or an HwPageTable of an Ioas."""

    def track_dirty(self) -> DirtyLog:
        """Begin a log. Raises VfioError if there is none."""


class DirtyTracker:
    """The dirty pages of a manager's region, as devices write to it through any number of address spaces.

    Only what is plugged can be dirty: the pages of an unplugged block are dirty no more, and all pages of a block that
    is plugged while tracked are, because they are zeros where there may have been something else. Every address space
    is asked for what it maps of the region, with one read of its log for each run of mappings, wherever they lie, so
    that DMA mappers and guest IOMMUs are treated alike. Everything that an address space maps is taken as dirty if it
    has no log, or if its log cannot be read. The guest's own writes are not seen here. Methods may be called from any
    thread.

    It is a RamDiscardListener, registered with the manager from start() to stop(). page_size: bytes for each bit.
    """

    name = "dirty tracker"

    def __init__(self, discards: RamDiscardManager, page_size: int | None = None) -> None:
        """page_size: bytes for each bit, a power of two (default: the host's page)."""
        self._discards = discards
        self.page_size = page_size or host_page_size()
        self._tracking = False
        self._logs: list[tuple[AddressSpace, DirtyLog | None]] = []
        self._pages = -(-discards.region.size // self.page_size)
        self._bits = PageBits(self._pages)

    def start(self, spaces: Mapping[AddressSpace, TracksDirty | None]) -> None:
        """Begin to track, with nothing dirty.

        spaces: what logs the writes through each address space; None where nothing can. Raises InvalidArgument if it
        tracks already, and VfioError if a log cannot begin; no address space is tracked then.
        """
        with self._discards.lock, ExitStack() as undo:
            if self._tracking:
                raise InvalidArgument(errno.EBUSY, "track dirty pages", meaning="it tracks already")
            self._discards.register(self, self._section)
            undo.callback(self._discards.unregister, self)
            for space, tracks in spaces.items():
                self._track(space, tracks)
                undo.callback(self._forget, space)
            undo.pop_all()
            self._tracking = True
            self._bits = PageBits(self._pages)

    def join(self, space: AddressSpace, tracks: TracksDirty | None) -> None:
        """Track space, too, which has joined the region meanwhile. Raises VfioError; space is not tracked then."""
        with self._discards.lock:
            self._track(space, tracks)
            if self._tracking:
                # Who registered last is asked first to let go. So this is told before a mapper unmaps, and with it what
                # the log knows is gone, even if the mapper fails and maps everything again.
                bits = self._bits
                self._bits = PageBits(self._pages)
                self._discards.unregister(self)
                self._discards.register(self, self._section)
                self._bits = bits

    def leave(self, space: AddressSpace) -> None:
        """Track space no more, which is about to leave the region. All that it maps is marked.

        Its log goes with its mappings, so what it has not told by then is unknown. Raises VfioError.
        """
        with self._discards.lock:
            for run in self._writable(space):
                self.mark(Run(run.offset, run.size))
            self._forget(space)

    def mark(self, run: Run) -> None:
        """Take these bytes of the memory as written: by a device that is about to lose its mapping, for example."""
        with self._discards.lock:
            for part in intersect([run], self._discards.populated_runs(run)):
                self._bits.fill(*self._pages_of(part))

    def sync(self) -> None:
        """Read every log: what devices have written since the last sync is dirty from now on.

        An address space that was closed meanwhile is tracked no more, and what it had written is unknown: all that is
        plugged is taken as dirty.
        """
        with self._discards.lock:
            closed = {space for space, _ in self._logs if is_closed(space)}
            for space in closed:
                self._forget(space)
            if closed:
                self.mark(self._discards.region)
            for space, log in self._logs:
                for run in self._writable(space):
                    self._ask(space, log, run)

    def take(self, run: Run | None = None) -> bytes:
        """The dirty pages of these bytes of the memory (default: of the region); they are clean from now on.

        A page is a bit, the first one of each byte the least significant. run begins and ends at multiples of eight
        pages from the region's start, or ends where the region does. Raises InvalidArgument for another run.
        """
        region = self._discards.region
        run = run or region
        unit = 8 * self.page_size
        if run.start < region.start or run.end > region.end or (run.start - region.start) % unit:
            raise InvalidArgument(errno.EINVAL, "take dirty pages", {"offset": run.start, "size": run.size})
        if (run.end - region.start) % unit and run.end != region.end:
            raise InvalidArgument(errno.EINVAL, "take dirty pages", {"offset": run.start, "size": run.size})
        with self._discards.lock:
            self._forget_discarded(run)
            return self._bits.take((run.start - region.start) // unit, -(-(run.end - region.start) // unit))

    @property
    def dirty_bytes(self) -> int:
        """Bytes of all pages that are dirty and not taken yet."""
        with self._discards.lock:
            self._forget_discarded(self._discards.region)
            return self._bits.count() * self.page_size

    def stop(self) -> None:
        """End every log. What is dirty can still be taken. Raises what a log raises, after all of them are closed."""
        with self._discards.lock, ExitStack() as stack:
            for _, log in self._logs:
                if log is not None:
                    stack.callback(log.close)
            self._logs = []
            if self._tracking:
                self._tracking = False
                self._discards.unregister(self)

    def accept(self, section: Section, granularity: int) -> None:
        """Any section, in any units."""

    def populate(self, section: Section, granularity: int) -> None:  # noqa: ARG002 (the listener's signature)
        """section is plugged anew, or devices could not reach it for a moment: all of it counts as written."""
        self._bits.fill(*self._pages_of(section.run))

    def discard(self, section: Section) -> None:
        """Do nothing: what is not populated is not dirty, whatever the bits say."""

    def discarded(self, section: Section) -> None:
        """Do nothing: see discard()."""

    @property
    def _section(self) -> Section:
        region = self._discards.region
        return Section(self._discards.memory, region.start, region.start, region.size)

    def _track(self, space: AddressSpace, tracks: TracksDirty | None) -> None:
        self._logs.append((space, None if tracks is None else tracks.track_dirty()))

    def _forget(self, space: AddressSpace) -> None:
        leaving = [log for known, log in self._logs if known is space]
        self._logs = [(known, log) for known, log in self._logs if known is not space]
        for log in leaving:
            if log is not None:
                log.close()

    def _writable(self, space: AddressSpace) -> list[MappedRun]:
        memory: object = self._discards.memory
        return [run for run in space.mappings() if run.memory is memory and run.access & Access.WRITE]

    def _ask(self, space: AddressSpace, log: DirtyLog | None, run: MappedRun) -> None:
        memory = Run(run.offset, run.size)
        if log is None:
            self.mark(memory)
            return
        try:
            bitmap = log.read(run.iova, run.size)
        except VfioError as error:
            # The log may have forgotten what it did not hand out: a page too many is sent twice, one too few is lost.
            _log.warning("all of %#x-%#x in %s is taken as dirty: %s", run.iova, run.end - 1, space.name, error)
            self.mark(memory)
            return
        if bitmap.page_size == self.page_size:
            self._add(memory, bitmap.bits)
        else:
            for dirty in bitmap.runs():
                self.mark(Run(run.offset + dirty.start - run.iova, dirty.last + 1 - dirty.start))

    def _add(self, run: Run, bits: int) -> None:
        """Mark the pages of run whose bits are set, as far as they are populated."""
        if bits:
            # Once, and not for each part: a shift of all bits costs what all of them cost.
            pages = bits.to_bytes(-(-max(run.size // self.page_size, bits.bit_length()) // 8), "little")
            for part in intersect([run], self._discards.populated_runs(run)):
                first, end = self._pages_of(part)
                self._bits.add(first, pages, (part.start - run.start) // self.page_size, end - first)

    def _forget_discarded(self, within: Run) -> None:
        """Clear the bits of what is not populated: nobody sends it, and it is plugged anew if it is plugged."""
        start, size = self._discards.region.start, self.page_size
        for gap in subtract([within], self._discards.populated_runs(within)):
            first, end = -(-(gap.start - start) // size), (gap.end - start) // size
            if first < end:
                self._bits.clear(first, end)

    def _pages_of(self, run: Run) -> tuple[int, int]:
        """The first page that run is a part of, and the one after the last."""
        start = self._discards.region.start
        return (run.start - start) // self.page_size, -(-(run.end - start) // self.page_size)
