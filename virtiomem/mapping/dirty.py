"""DirtyTracker: which pages of plugged memory devices may have written since they were last asked for."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from pyvfio.dma import Access, AddressSpace, DirtyBitmap, MappedRun
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import host_page_size
from virtiomem.discard import RamDiscardManager
from virtiomem.runs import Run, intersect

_log = logging.getLogger(__name__)


class DirtyLog(Protocol):
    """The log of what devices write through an address space, until close(); pyvfio.DirtyTracking is one."""

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """What devices have written in the range since it was last read. It cuts no mapping. Raises VfioError."""

    def close(self) -> None:
        """End the log. Raises VfioError."""


class TracksDirty(Protocol):
    """What can log the writes of devices: a Container of type1v2, or an HwPageTable of an Ioas."""

    def track_dirty(self) -> DirtyLog:
        """Begin a log. Raises VfioError if there is none."""


class DirtyTracker:
    """The dirty pages of a manager's region, as devices write to it through any number of address spaces.

    Only what is plugged can be dirty. Every address space is asked for what it maps of the region, with one read of its
    log for each run of mappings, wherever they lie, so that DMA mappers and guest IOMMUs are treated alike. Everything
    that an address space maps is taken as dirty if it has no log, or if its log cannot be read. The guest's own writes
    are not seen here. Methods may be called from any thread.

    page_size: bytes for each bit.
    """

    def __init__(self, discards: RamDiscardManager, page_size: int | None = None) -> None:
        """page_size: bytes for each bit, a power of two (default: the host's page)."""
        self._discards = discards
        self.page_size = page_size or host_page_size()
        self._logs: list[tuple[AddressSpace, DirtyLog | None]] = []
        self._bits = bytearray(-(-discards.region.size // self.page_size // 8))

    def start(self, spaces: Mapping[AddressSpace, TracksDirty | None]) -> None:
        """Begin to track, with nothing dirty.

        spaces: what logs the writes through each address space; None where nothing can. Raises InvalidArgument if it
        tracks already, and VfioError if a log cannot begin; no address space is tracked then.
        """
        with self._discards.lock, ExitStack() as undo:
            if self._logs:
                raise InvalidArgument(errno.EBUSY, "track dirty pages", meaning="it tracks already")
            for space, tracks in spaces.items():
                self.join(space, tracks)
                undo.callback(self._forget, space)
            undo.pop_all()
            self._bits = bytearray(len(self._bits))

    def join(self, space: AddressSpace, tracks: TracksDirty | None) -> None:
        """Track space, too, which has joined the region meanwhile. Raises VfioError; space is not tracked then."""
        with self._discards.lock:
            self._logs.append((space, None if tracks is None else tracks.track_dirty()))

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
            first, last = run.start // self.page_size, -(-run.end // self.page_size)
            self._set(Run(first * self.page_size, (last - first) * self.page_size), (1 << last - first) - 1)

    def sync(self) -> None:
        """Read every log: what devices have written since the last sync is dirty from now on."""
        with self._discards.lock:
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
            first, last = (run.start - region.start) // unit, -(-(run.end - region.start) // unit)
            taken = bytes(self._bits[first:last])
            self._bits[first:last] = bytes(last - first)
            return taken

    @property
    def dirty_bytes(self) -> int:
        """Bytes of all pages that are dirty and not taken yet."""
        with self._discards.lock:
            return int.from_bytes(self._bits, "little").bit_count() * self.page_size

    def stop(self) -> None:
        """End every log. What is dirty can still be taken. Raises what a log raises, after all of them are closed."""
        with self._discards.lock, ExitStack() as stack:
            for _, log in self._logs:
                if log is not None:
                    stack.callback(log.close)
            self._logs = []

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
            self._set(memory, bitmap.bits & (1 << run.size // self.page_size) - 1)
        else:
            for dirty in bitmap.runs():
                self.mark(Run(run.offset + dirty.start - run.iova, dirty.last + 1 - dirty.start))

    def _set(self, run: Run, bits: int) -> None:
        """Mark the pages of run whose bits are set, as far as they are populated."""
        if not bits:
            return
        region = self._discards.region
        for part in intersect([run], self._discards.populated_runs(run)):
            first = (part.start - run.start) // self.page_size
            pages = -(-part.size // self.page_size)
            wanted = bits >> first & (1 << pages) - 1
            page = (part.start - region.start) // self.page_size
            start, end = page // 8, -(-(page + pages) // 8)
            known = int.from_bytes(self._bits[start:end], "little")
            self._bits[start:end] = (known | wanted << page % 8).to_bytes(end - start, "little")
