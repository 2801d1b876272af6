"""DirtyTracker: which pages of plugged memory devices may have written since they were last asked for."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, Protocol, runtime_checkable

from pyvfio.address_space import Access, AddressSpace, MappedRun
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.limits import host_page_size
from virtiomem.discard import RamDiscardManager
from virtiomem.runs import Run, intersect

_log = logging.getLogger(__name__)

LARGEST_QUERY: Final = 1 << 36
"""Bytes that are asked for at a time: 64 GiB, a bitmap of 2 MiB. type1 answers up to 8 TiB."""


@runtime_checkable
class DirtySpace(Protocol):
    """An address space that logs which pages its devices write."""

    def start_dirty_tracking(self) -> None:
        """Begin, with nothing dirty. Raises VfioError; nothing is logged then."""

    def stop_dirty_tracking(self) -> None:
        """End."""

    def dirty_bitmap(self, iova: int, size: int, page_size: int) -> bytes:
        """One bit for each page of the range, least significant first, set if it was written since the last question;
        it is clean from now on. The range cuts no mapping. Raises VfioError."""


class DirtyTracker:
    """The dirty pages of a manager's region, as devices write to it through any number of address spaces.

    Only what is plugged can be dirty. Every address space is asked for what it maps of the region, one question for
    each run of mappings, wherever they lie: DMA mappers and guest IOMMUs alike. One that logs nothing, or fails to
    answer, may have written everything it maps. The guest's own writes are not seen here. Safe from any thread.
    """

    def __init__(self, discards: RamDiscardManager, page_size: int | None = None) -> None:
        """page_size: bytes for each bit, a power of two; default the host's."""
        self._discards = discards
        self.page_size = page_size or host_page_size()
        self._spaces: list[AddressSpace] = []
        self._bits = bytearray(-(-discards.region.size // self.page_size // 8))

    def start(self, *spaces: AddressSpace) -> None:
        """Begin to track, with nothing dirty. Raises VfioError if one refuses: none tracks then."""
        with self._discards.lock, ExitStack() as undo:
            if self._spaces:
                raise InvalidArgument(errno.EBUSY, "track dirty pages", meaning="it does already")
            for space in spaces:
                if isinstance(space, DirtySpace):
                    space.start_dirty_tracking()
                    undo.callback(space.stop_dirty_tracking)
            undo.pop_all()
            self._spaces = [*spaces]
            self._bits = bytearray(len(self._bits))

    def join(self, space: AddressSpace) -> None:
        """space has joined the region while it is tracked. Raises VfioError, with space not tracked."""
        with self._discards.lock:
            if isinstance(space, DirtySpace):
                space.start_dirty_tracking()
            self._spaces.append(space)

    def leave(self, space: AddressSpace) -> None:
        """space is about to leave the region: its log goes with its mappings, so all it maps may be dirty."""
        with self._discards.lock:
            for run in self._writable(space):
                self.mark(Run(run.offset, run.size))
            self._spaces = [other for other in self._spaces if other is not space]
            if isinstance(space, DirtySpace):
                space.stop_dirty_tracking()

    def mark(self, run: Run) -> None:
        """These bytes of the memory may have been written, by a device whose mapping of them is to go for example."""
        with self._discards.lock:
            first, last = run.start // self.page_size, -(-run.end // self.page_size)
            self._set(Run(first * self.page_size, (last - first) * self.page_size), (1 << last - first) - 1)

    def sync(self) -> None:
        """Ask every address space what its devices have written since the last time."""
        with self._discards.lock:
            for space in self._spaces:
                for run in self._writable(space):
                    for part in _questions(run):
                        self._set(Run(part.offset, part.size), self._ask(space, part))

    def take(self, run: Run | None = None) -> bytes:
        """The dirty pages of these bytes of the memory (default: of the region), one bit each, least significant first;
        they are clean from now on. Multiples of eight pages from the region's start, or its end."""
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
        """Of all pages that are dirty, and not taken yet."""
        with self._discards.lock:
            return int.from_bytes(self._bits, "little").bit_count() * self.page_size

    def stop(self) -> None:
        """End. What is dirty can still be taken. Every address space is told to stop; raises the first failure."""
        with self._discards.lock, ExitStack() as stack:
            for space in self._spaces:
                if isinstance(space, DirtySpace):
                    stack.callback(space.stop_dirty_tracking)
            self._spaces = []

    def _writable(self, space: AddressSpace) -> list[MappedRun]:
        memory = self._discards.memory
        return [run for run in space.mappings() if run.memory is memory and run.access & Access.WRITE]

    def _ask(self, space: AddressSpace, part: MappedRun) -> int:
        pages = part.size // self.page_size
        everything = (1 << pages) - 1
        if not isinstance(space, DirtySpace):
            return everything
        try:
            bitmap = space.dirty_bitmap(part.iova, part.size, self.page_size)
        except VfioError as error:
            # Bits that were asked for may be gone: a page too many is sent again, one too few is lost.
            _log.warning("all of %#x-%#x in %s is taken as dirty: %s", part.iova, part.end - 1, space.name, error)
            return everything
        return int.from_bytes(bitmap, "little") & everything

    def _set(self, run: Run, bits: int) -> None:
        """Enter the bits of run's pages, of which only those that are populated count."""
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


def _questions(run: MappedRun) -> Iterator[MappedRun]:
    """The run in parts that are asked for at a time: none cuts a mapping."""
    unit = run.granularity
    if unit is None or run.size <= LARGEST_QUERY:
        yield run
        return
    step = max(LARGEST_QUERY // unit, 1) * unit
    offset = run.offset
    while offset < run.offset + run.size:
        end = min(offset // step * step + step, run.offset + run.size)
        yield MappedRun(run.iova + offset - run.offset, end - offset, run.memory, offset, run.access, unit)
        offset = end
