"""MappingSpace: what every address space does alike, whichever ioctls are below."""

from __future__ import annotations

import ctypes
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from pyvfio.dma.address_space import Access, IovaRange, MappedRun
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.dma.refusals import check_map_arguments, map_failure, unmap_failure
from pyvfio.errors import AlreadyMapped, NotMapped, ShortUnmap, VfioError
from pyvfio.kernel import Kernel
from pyvfio.memory import Memory
from pyvfio.resource import Resource

END = 1 << 64
"""One past the last address."""

# iommufd takes mapping after mapping off until it meets the one it stops at. type1 gives none of these.
_PARTIAL_UNMAP = (errno.EBUSY, errno.EDEADLK)


@dataclass(frozen=True, slots=True)
class DmaCalls:
    """How many calls to map and to unmap the kernel has answered, refusals included."""

    map: int = 0
    unmap: int = 0


class Layout(Protocol):
    """Where mappings may lie, and in which units: page sizes in bytes, ascending."""

    @property
    def page_sizes(self) -> tuple[int, ...]: ...
    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]: ...


class MapCall:
    """An ioctl that maps, and the fields of its argument that differ from mapping to mapping."""

    def __init__(self, fd: int, request: int, argument: ctypes.Structure, source: str, size: str) -> None:
        """source and size: the fields that tell where in memory, or in a file, the mapping begins, and its bytes."""
        self.fd = fd
        self.request = request
        self.argument = argument
        self.iova = _field(argument, "iova")
        self.source = _field(argument, source)
        self.size = _field(argument, size)


class MappingSpace(Resource, ABC):
    """Checks what is asked, maps block by block and takes it back on failure, and keeps what is mapped.

    A subclass says what the kernel takes (_layout) and makes the calls (_map_call, _unmap_ioctl). Safe from several
    threads: one lock for the address space and what was opened through it.
    """

    kernel: Kernel

    def __init__(self, parent: Resource | None = None) -> None:
        self._table = MappingTable()
        self._map_calls = self._unmap_calls = 0
        super().__init__(parent)

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call this address space in messages."""

    @property
    def calls(self) -> DmaCalls:
        """Counted since the address space was opened."""
        return DmaCalls(self._map_calls, self._unmap_calls)

    def map_dma(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        """See AddressSpace."""
        run = MappedRun(iova, size, memory, offset, access, granularity)
        with self._lock:
            layout = self._layout("map_dma")
            memory._check_open()
            check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)
            if other := self._table.overlapping(iova, size):
                raise AlreadyMapped(
                    errno.EEXIST,
                    "map_dma",
                    {"iova": iova, "size": size},
                    f"{other.iova:#_x}-{other.end - 1:#_x} is mapped already: {other.memory!r} at {other.offset:#_x}",
                    "Unmap it first, or choose other addresses",
                )
            self._map(run)
            self._table.add(run)

    def unmap_dma(self, iova: int, size: int) -> int:
        """See AddressSpace."""
        with self._lock:
            unit = self._layout("unmap_dma").page_sizes[0]
            arguments = {"iova": iova, "size": size}
            if size <= 0 or iova < 0 or iova + size > END or (iova | size) % unit:
                raise NotMapped(errno.EINVAL, "unmap_dma", arguments, f"not a range in units of {unit:#_x}")
            if cut := self._table.bisected(iova, size):
                raise NotMapped(
                    errno.EINVAL,
                    "unmap_dma",
                    arguments,
                    f"it would cut a mapping of {cut.iova:#_x}-{cut.end - 1:#_x}",
                    f"Mappings come off whole; these are {cut.granularity or cut.size:#_x} bytes each",
                )
            if not self._table.covered(iova, size):
                raise NotMapped(errno.ENOENT, "unmap_dma", arguments, "nothing is mapped there")
            return self._unmap(iova, size)

    def unmap_all(self) -> int:
        """See AddressSpace. One call over everything this object has mapped."""
        with self._lock:
            self._layout("unmap_all")
            runs = self._table.runs()
            if not runs:
                return 0
            return self._unmap(runs[0].iova, runs[-1].end - runs[0].iova)

    def unmap_everything(self) -> int:
        """Take back every mapping there is, also those that this object has not made; return the bytes unmapped.

        A failure leaves what was mapped through this object in mappings(). Raises VfioError.
        Source: VFIO_DMA_UNMAP_FLAG_ALL (Linux 5.12); IOMMU_IOAS_UNMAP of all addresses.
        """
        with self._lock:
            self._layout("unmap_everything")
            self._unmap_calls += 1
            try:
                unmapped = self._unmap_everything_ioctl()
            except OSError as error:
                raise unmap_failure(error, {}) from error
            self._table.clear()
            return unmapped

    def mappings(self) -> tuple[MappedRun, ...]:
        with self._lock:
            return self._table.runs()

    @property
    def mapping_count(self) -> int:
        return self._table.count

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        """Asked of the kernel every time: they change as devices come and go."""
        with self._lock:
            return self._ask_layout("iova_ranges").iova_ranges

    @property
    def page_sizes(self) -> tuple[int, ...]:
        with self._lock:
            return self._ask_layout("page_sizes").page_sizes

    @abstractmethod
    def _layout(self, operation: str) -> Layout:
        """As the kernel last told. Raises ClosedError, and VfioError where operation cannot be yet."""

    @abstractmethod
    def _ask_layout(self, operation: str) -> Layout:
        """As the kernel tells now."""

    @abstractmethod
    def _map_call(self, run: MappedRun) -> tuple[MapCall, int]:
        """How to map the parts of run, and where the source of its first byte is."""

    @abstractmethod
    def _unmap_ioctl(self, iova: int, size: int) -> int:
        """Ask the kernel to unmap, and return what it says it has. Raises OSError as the kernel does."""

    @abstractmethod
    def _unmap_everything_ioctl(self) -> int:
        """The same for all addresses."""

    def _map_failure(self, error: OSError, run: MappedRun, iova: int, size: int, count: int) -> VfioError:
        """The kernel's refusal of one mapping of run, at iova, in words. count: mappings there are then."""
        return map_failure(error, run, iova, size, count, self.kernel)

    def _map(self, run: MappedRun) -> None:
        call, source = self._map_call(run)
        ioctl, fd, request, argument = self.kernel.ioctl, call.fd, call.request, call.argument
        iova_field, source_field, distance = call.iova, call.source, source - run.iova
        iova = run.iova
        try:
            for part in run.parts():
                call.size.value = part.step
                # This loop is what plugging memory costs beyond the kernel's work.
                for iova in part:
                    iova_field.value = iova
                    source_field.value = iova + distance
                    ioctl(fd, request, argument)
            self._map_calls += run.mappings
        except OSError as error:
            mapped = replace(run, size=iova - run.iova)
            made = mapped.mappings if mapped.size else 0
            self._map_calls += made + 1
            count = self._table.count + made
            failure = self._outside(error, run) or self._map_failure(error, run, iova, call.size.value, count)
            if made:
                self._undo_map(mapped, failure)
            raise failure from error

    def _outside(self, error: OSError, run: MappedRun) -> VfioError | None:
        """Whether a device that has come since brought addresses that must not be mapped."""
        if error.errno == errno.EINVAL:
            try:
                layout = self._ask_layout("map_dma")
                check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)
            except VfioError as outside:
                return outside
        return None

    def _undo_map(self, mapped: MappedRun, failure: VfioError) -> None:
        self._table.add(mapped)
        try:
            self._unmap(mapped.iova, mapped.size)
        except OSError as error:
            failure.add_note(f"Taking back what this call had mapped failed too, it stays mapped: {error}")

    def _unmap(self, iova: int, size: int, ioctl: Callable[[int, int], int] | None = None) -> int:
        """ioctl: what to unmap the whole range with, if not _unmap_ioctl."""
        expected = self._table.covered(iova, size)
        try:
            returned = self._unmap_counted(iova, size, ioctl)
        except VfioError as error:
            if error.errno not in _PARTIAL_UNMAP:
                raise
            returned = 0
        if returned == expected:
            self._table.remove(iova, size)
            return returned
        gone = returned + self._unmap_one_by_one(iova, size)
        raise ShortUnmap(
            errno.EIO,
            "unmap_dma",
            {"iova": iova, "size": size},
            f"the kernel unmapped {returned:#_x} bytes where {expected:#_x} were mapped",
            "All of it has been unmapped one by one"
            if gone == expected
            else "The address space can no longer be relied on",
            remaining=max(expected - gone, 0),
        )

    def _unmap_one_by_one(self, iova: int, size: int) -> int:
        """Find out what a short unmap left, by unmapping each mapping that may be left."""
        gone = 0
        for part in list(_single_mappings(self._table.runs(), iova, iova + size)):
            gone += self._unmap_counted(part.iova, part.size)
            self._table.remove(part.iova, part.size)
        return gone

    def _unmap_counted(self, iova: int, size: int, ioctl: Callable[[int, int], int] | None = None) -> int:
        self._unmap_calls += 1
        try:
            return (ioctl or self._unmap_ioctl)(iova, size)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise unmap_failure(error, {"iova": iova, "size": size}) from error


def _field(argument: ctypes.Structure, name: str) -> ctypes.c_uint64:
    """A field of 64 bits, to be set without looking it up by name."""
    return ctypes.c_uint64.from_buffer(argument, getattr(type(argument), name).offset)


def _single_mappings(runs: Iterable[MappedRun], start: int, end: int) -> Iterator[MappedRun]:
    for run in runs:
        for part in run.parts():
            for iova in part:
                if start <= iova < end:
                    yield replace(run, iova=iova, size=part.step, offset=run.offset + iova - run.iova)
