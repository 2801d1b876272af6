"""An address space without a kernel, for whatever is above one."""

from __future__ import annotations

import errno
import os

from pyvfio.dma import Access, DirtyBitmap, IovaRange, MappedRun, check_map_arguments, map_failure
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.errors import AlreadyMapped, ClosedError, NotMapped
from pyvfio.kernel import LinuxKernel
from pyvfio.memory import DmaTarget
from tests.support.virtiomem.fakes import failure
from virtiomem.trace import DmaLog


class RecordingAddressSpace:
    """An AddressSpace of type1v2's rules without a device: it tells its log what it would ask of a kernel."""

    page_sizes = (4096,)
    iova_ranges = (IovaRange(0, (1 << 64) - 1),)

    def __init__(self, mapper: int, log: DmaLog, mapping_limit: int | None = None) -> None:
        self.name = f"address space {mapper}"
        self._mapper = mapper
        self._log = log
        self._limit = mapping_limit
        self._table = MappingTable()
        self._kernel = LinuxKernel()

    def map_dma(
        self,
        iova: int,
        memory: DmaTarget,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        run = MappedRun(iova, size, memory, offset, access, granularity)
        check_map_arguments(run, self.page_sizes[0], self.iova_ranges)
        if self._table.overlapping(iova, size):
            raise AlreadyMapped(errno.EEXIST, "map_dma", {"iova": iova, "size": size})
        count = self._table.count
        for part in run.parts():
            for start in part:
                try:
                    if count == self._limit:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._log.map(self._mapper, start, part.step)
                except OSError as error:
                    if start > iova:
                        self._log.unmap(self._mapper, iova, start - iova)
                    held = (count, self._limit)
                    raise map_failure(error, run, start, part.step, self._kernel, held=held) from error
                count += 1
        self._table.add(run)

    def unmap_dma(self, iova: int, size: int) -> int:
        covered = self._table.covered(iova, size)
        if not covered or self._table.bisected(iova, size):
            raise NotMapped(errno.ENOENT, "unmap_dma", {"iova": iova, "size": size})
        self._log.unmap(self._mapper, iova, size)
        self._table.remove(iova, size)
        return covered

    def unmap_all(self) -> int:
        runs = self._table.runs()
        return self.unmap_dma(runs[0].iova, runs[-1].end - runs[0].iova) if runs else 0

    def mappings(self) -> tuple[MappedRun, ...]:
        return self._table.runs()

    def mappings_in(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        return tuple(self._table.parts(iova, size))

    def unconfirmed(self) -> tuple[MappedRun, ...]:
        return ()

    def confirm(self, iova: int, size: int) -> tuple[MappedRun, ...]:  # noqa: ARG002 (nothing is ever in doubt)
        return ()

    generation = 0

    @property
    def mapping_count(self) -> int:
        return self._table.count

    @property
    def mappings_left(self) -> int | None:
        return None if self._limit is None else self._limit - self._table.count


class LoggingSpace(RecordingAddressSpace):
    """written: device addresses of pages. fails: what raises, of "start" and "read". unit: bytes of the log's pages."""

    def __init__(self, number: int, unit: int = 4096) -> None:
        super().__init__(number, DmaLog())
        self.unit = unit
        self.written: set[int] = set()
        self.tracking = False
        self.questions: list[tuple[int, int]] = []
        self.fails = ""
        self.unmap_fails = False
        self._vanished = False

    @property
    def page_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        if self._vanished:
            raise ClosedError(errno.EBADF, self.name, meaning="it is closed")
        return (4096,)

    def vanish(self) -> None:
        """As an address space that is closed: the kernel drops its mappings, and its log."""
        self._vanished = True
        self._table.clear()

    def unmap_dma(self, iova: int, size: int) -> int:
        if self.unmap_fails:
            raise failure("unmap")
        return super().unmap_dma(iova, size)

    def track_dirty(self) -> LoggingSpace:
        if self.fails == "start":
            raise failure("start")
        self.tracking = True
        self.written.clear()
        return self

    def close(self) -> None:
        self.tracking = False

    def read(self, iova: int, size: int) -> DirtyBitmap:
        assert self.tracking
        assert not self._table.bisected(iova, size)
        self.questions.append((iova, size))
        if self.fails == "read":
            raise failure("read")
        inside = {page for page in self.written if iova <= page < iova + size}
        self.written -= inside
        bits = 0
        for page in inside:
            bits |= 1 << (page - iova) // self.unit
        return DirtyBitmap(iova, size, self.unit, bits)
