"""MappingSpace: what every address space does alike, whichever ioctls are below."""

from __future__ import annotations

import ctypes
import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from pyvfio.dma.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.dma.refusals import check_map_arguments, map_failure, unmap_failure
from pyvfio.errors import AlreadyMapped, NotMapped, ShortUnmap, VfioError
from pyvfio.kernel import Kernel
from pyvfio.memory import Memory
from pyvfio.resource import Resource

END = 1 << 64
"""The address after the last one."""

# An iommufd unmaps one mapping after the other until one stops it with such an errno. type1 has neither errno.
_PARTIAL_UNMAP = (errno.EBUSY, errno.EDEADLK)


@dataclass(frozen=True, slots=True)
class DmaCalls:
    """How many calls the kernel has answered, refusals included.

    map: calls to map. unmap: calls to unmap.
    """

    map: int = 0
    unmap: int = 0


class Layout(Protocol):
    """Where mappings may lie, and in which units."""

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """Page sizes in bytes, ascending; the first is the unit of every mapping."""

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        """The addresses that may be mapped, ascending."""


class MapCall:
    """An ioctl that maps, and the fields of its argument that differ from mapping to mapping.

    fd, request, argument: what ioctl is called with. iova, source, size: fields of argument, each of 64 bits.
    """

    def __init__(self, fd: int, request: int, argument: ctypes.Structure, source: str, size: str) -> None:
        """source: the name of the field that tells at which address of this process, or at which offset of a file, a
        mapping begins. size: the name of the field with its bytes."""
        self.fd = fd
        self.request = request
        self.argument = argument
        self.iova = _field(argument, "iova")
        self.source = _field(argument, source)
        self.size = _field(argument, size)


class MappingSpace(Resource, AddressSpace, ABC):
    """An AddressSpace that checks what it is asked, maps part by part, and takes the parts back when one fails.

    A subclass tells what the kernel takes (_layout) and makes the calls (_map_call, _unmap_ioctl). Safe from several
    threads: the address space and what was opened through it share one lock.

    kernel: the kernel whose calls are made.
    """

    kernel: Kernel

    def __init__(self, parent: Resource | None = None) -> None:
        """parent: the resource that closes this one when it is closed itself; None for none."""
        self._table = MappingTable()
        self._map_calls = self._unmap_calls = 0
        super().__init__(parent)

    @property
    def calls(self) -> DmaCalls:
        """How many calls the kernel has answered since the address space was opened."""
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
        run = MappedRun(iova, size, memory, offset, access, granularity)
        with self._lock:
            layout = self._layout("map_dma")
            memory.require_open()
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
        """Unmap all that is mapped through this object, with one call to the kernel; return the bytes unmapped.

        Raises ShortUnmap, VfioError.
        """
        with self._lock:
            self._layout("unmap_all")
            runs = self._table.runs()
            if not runs:
                return 0
            return self._unmap(runs[0].iova, runs[-1].end - runs[0].iova)

    def unmap_everything(self) -> int:
        """Unmap all that is mapped, by this object or by another user of the descriptor; return the bytes unmapped.

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

    def mappings_in(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """What is mapped in the range, ascending; of a run that reaches over an end of it, the part inside."""
        with self._lock:
            return self._table.parts(iova, size)

    def mapping_cut_by(self, iova: int, size: int) -> MappedRun | None:
        """The run with a mapping that reaches over an end of the range; None if the range cuts no mapping."""
        with self._lock:
            return self._table.bisected(iova, size)

    @property
    def mapping_count(self) -> int:
        return self._table.count

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        """Where mappings may lie, ascending. The kernel is asked each time: they change as devices come and go."""
        with self._lock:
            return self._ask_layout("iova_ranges").iova_ranges

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """Page sizes of the IOMMU in bytes, ascending; the first is the unit of every mapping. The kernel is asked
        each time."""
        with self._lock:
            return self._ask_layout("page_sizes").page_sizes

    @abstractmethod
    def _layout(self, operation: str) -> Layout:
        """The layout that the kernel told last. Raises ClosedError, and VfioError if operation is not possible yet."""

    @abstractmethod
    def _ask_layout(self, operation: str) -> Layout:
        """Ask the kernel for the layout. Raises what _layout raises."""

    @abstractmethod
    def _map_call(self, run: MappedRun) -> tuple[MapCall, int]:
        """The call that maps a part of run, and what its source field is for the first byte of run."""

    @abstractmethod
    def _unmap_ioctl(self, iova: int, size: int) -> int:
        """Ask the kernel to unmap the range; return how many bytes it says were unmapped. Raises OSError as it does."""

    @abstractmethod
    def _unmap_everything_ioctl(self) -> int:
        """Ask the kernel to unmap all addresses; return how many bytes it says were. Raises OSError as it does."""

    def _map_failure(self, error: OSError, run: MappedRun, iova: int, size: int, count: int) -> VfioError:
        """The kernel's refusal in words, of the mapping of run that has size bytes at iova.

        count: how many mappings the address space holds.
        """
        return map_failure(error, run, iova, size, count, self.kernel)

    def _map(self, run: MappedRun) -> None:
        """Make every mapping of run, in ascending order, or none."""
        call, source = self._map_call(run)
        ioctl, fd, request, argument = self.kernel.ioctl, call.fd, call.request, call.argument
        iova_field, source_field, distance = call.iova, call.source, source - run.iova
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
            # The argument is of the mapping that was refused; those before it were made.
            refused, size = call.iova.value, call.size.value
            mapped = replace(run, size=refused - run.iova)
            made = mapped.mappings if mapped.size else 0
            self._map_calls += made + 1
            count = self._table.count + made
            failure = self._outside(error, run) or self._map_failure(error, run, refused, size, count)
            if made:
                self._undo_map(mapped, failure)
            raise failure from error

    def _outside(self, error: OSError, run: MappedRun) -> VfioError | None:
        """The error to raise if run no longer lies where mappings may, because of a device that has come since."""
        if error.errno == errno.EINVAL:
            try:
                layout = self._ask_layout("map_dma")
                check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)
            except VfioError as outside:
                return outside
        return None

    def _undo_map(self, mapped: MappedRun, failure: VfioError) -> None:
        """Unmap what a call has mapped before its failure; what cannot be unmapped stays in mappings()."""
        self._table.add(mapped)
        try:
            self._unmap(mapped.iova, mapped.size)
        except OSError as error:
            failure.add_note(f"Taking back what this call had mapped failed too, it stays mapped: {error}")

    def _unmap(self, iova: int, size: int) -> int:
        """Unmap with one call a range that cuts no mapping; return the bytes unmapped. Raises ShortUnmap, VfioError."""
        try:
            unmapped = self._unmap_counted(iova, size)
        except VfioError as error:
            if error.errno not in _PARTIAL_UNMAP:
                raise
            unmapped = 0
        return self.confirm_unmap(iova, size, unmapped)

    @contextmanager
    def unmap_call(self, iova: int, size: int) -> Iterator[None]:
        """Count the call to the kernel within the block, which unmaps the range, and put its refusal in words.

        Raises VfioError. Afterwards confirm_unmap() is called with what the kernel has answered.
        """
        self._unmap_calls += 1
        try:
            yield
        except OSError as error:
            raise unmap_failure(error, {"iova": iova, "size": size}) from error

    def confirm_unmap(self, iova: int, size: int, unmapped: int) -> int:
        """Take the range out of mappings(), and return unmapped: how many of its bytes the kernel says it has unmapped.

        Raises ShortUnmap if the range had another number of bytes mapped. Every mapping of the range has been unmapped
        by itself then.
        """
        expected = self._table.covered(iova, size)
        if unmapped == expected:
            self._table.remove(iova, size)
            return unmapped
        gone = unmapped + self._unmap_one_by_one(iova, size)
        raise ShortUnmap(
            errno.EIO,
            "unmap_dma",
            {"iova": iova, "size": size},
            f"the kernel unmapped {unmapped:#_x} bytes where {expected:#_x} were mapped",
            "All of it has been unmapped one by one"
            if gone == expected
            else "The address space can no longer be relied on",
            remaining=max(expected - gone, 0),
        )

    def _unmap_one_by_one(self, iova: int, size: int) -> int:
        """Unmap each mapping of the range that a short unmap may have left; return the bytes that were still mapped."""
        gone = 0
        for part in list(_single_mappings(self._table.runs(), iova, iova + size)):
            gone += self._unmap_counted(part.iova, part.size)
            self._table.remove(part.iova, part.size)
        return gone

    def _unmap_counted(self, iova: int, size: int) -> int:
        """One call that unmaps; return how many bytes the kernel says were: 0 for none. Raises VfioError."""
        with self.unmap_call(iova, size):
            try:
                return self._unmap_ioctl(iova, size)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return 0
                raise


def _field(argument: ctypes.Structure, name: str) -> ctypes.c_uint64:
    """A field of 64 bits, which can be set without looking it up by name each time."""
    return ctypes.c_uint64.from_buffer(argument, getattr(type(argument), name).offset)


def _single_mappings(runs: Iterable[MappedRun], start: int, end: int) -> Iterator[MappedRun]:
    """The mappings of runs that begin in the range, each as a run of its own."""
    for run in runs:
        for part in run.parts():
            for iova in part:
                if start <= iova < end:
                    yield replace(run, iova=iova, size=part.step, offset=run.offset + iova - run.iova)
