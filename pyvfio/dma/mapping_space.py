"""MappingSpace: what every address space does alike, whichever ioctls are below."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyvfio.dma.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.dma.map_call import MapCall
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.dma.proofs import Proofs
from pyvfio.dma.refusals import (
    already_mapped,
    check_map_arguments,
    check_target,
    short_unmap,
    unmap_failure,
    unproven_unmap,
)
from pyvfio.errors import NotMapped, ShortUnmap, VfioError
from pyvfio.explain import is_refusal
from pyvfio.kernel import Kernel
from pyvfio.memory import DmaTarget
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


class MappingSpace(Resource, AddressSpace, ABC):
    """An AddressSpace that checks what it is asked, maps part by part, and takes the parts back when one fails.

    A subclass tells what the kernel takes (_layout) and makes the calls (_map_call, _unmap_ioctl). Safe from several
    threads: the address space and what was opened through it share one lock, which is taken before that of the memory.

    mappings() has all that the kernel has at any moment, whatever exception comes at whichever bytecode: what is to be
    mapped is entered, and its memory held, before the kernel is asked, and what is unmapped stays until the kernel has
    confirmed it. An exception on the way has what can be undone undone; the rest is unconfirmed(). Asking what is
    mapped waits for no call that maps.

    kernel: the kernel whose calls are made.
    """

    kernel: Kernel

    def __init__(self, parent: Resource | None = None) -> None:
        """parent: the resource that closes this one when it is closed itself; None for none."""
        self._table = MappingTable()
        self._map_calls = self._unmap_calls = self._generation = 0
        super().__init__(parent)

    @property
    def calls(self) -> DmaCalls:
        """How many calls the kernel has answered since the address space was opened."""
        return DmaCalls(self._map_calls, self._unmap_calls)

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
        check_target(memory, "map_dma", iova, size)
        run = MappedRun(iova, size, memory, offset, access, granularity)
        with self._lock:
            layout = self._layout("map_dma")
            memory.require_open()
            check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)
            if other := self._table.overlapping(iova, size):
                raise already_mapped(run, other, is_doubted=bool(self._table.doubted(other.iova, other.size)))
            self._map(run)

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
            return self.unmap_by(self._unmap_ioctl, iova, size)

    def unmap_all(self) -> int:
        """Unmap all that is mapped through this object, with one call to the kernel; return the bytes unmapped.

        Raises ShortUnmap, VfioError.
        """
        with self._lock:
            self._layout("unmap_all")
            return self._unmap_all()

    def unmap_everything(self) -> int:
        """Unmap all that is mapped, by this object or by another user of the descriptor; return the bytes unmapped.

        A failure leaves what was mapped through this object in mappings(), and in unconfirmed(). Raises VfioError, and
        ShortUnmap if some of that may be mapped still.
        Source: VFIO_DMA_UNMAP_FLAG_ALL (Linux 5.12); IOMMU_IOAS_UNMAP of all addresses.
        """
        with self._lock:
            self._layout("unmap_everything")
            expected = self._table.covered(0, END)
            self._table.doubt(0, END)
            self._unmap_calls += 1
            try:
                unmapped = self._unmap_everything_ioctl()
            except OSError as error:
                if not is_refusal(error):
                    raise
                raise unmap_failure(error, {}) from error
            if unmapped >= expected:
                self._table.clear()
                return unmapped
            # What is not ours may be among these bytes: they prove nothing of any single mapping.
            failure = self._proofs.settle(0, END, self._table.runs())
            if self._table.count:
                raise short_unmap(0, END, unmapped, expected, self._table.covered(0, END)) from failure
            return unmapped

    def mappings(self) -> tuple[MappedRun, ...]:
        return self._table.runs()

    def mappings_in(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        """What is mapped in the range, ascending; of a run that reaches over an end of it, the part inside."""
        return self._table.parts(iova, size)

    def mapping_cut_by(self, iova: int, size: int) -> MappedRun | None:
        """The run with a mapping that reaches over an end of the range; None if the range cuts no mapping."""
        return self._table.bisected(iova, size)

    def unconfirmed(self) -> tuple[MappedRun, ...]:
        return self._table.doubted(0, END)

    @property
    def is_iommufd(self) -> bool:
        """Whether an iommufd is behind it, which pins what is mapped only when there is a device."""
        return False

    @property
    def may_hold_mappings(self) -> bool:
        """Whether the kernel may have something mapped here, through this object or another user of the descriptor."""
        return self._table.count > 0

    @property
    def generation(self) -> int:
        return self._generation

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
    def _map_call(self, run: MappedRun) -> MapCall:
        """The calls that map run, whose memory is held. Raises VfioError if there is none for such memory."""

    @abstractmethod
    def _unmap_ioctl(self, iova: int, size: int) -> int:
        """Ask the kernel to unmap the range; return how many bytes it says were unmapped. Raises OSError as it does."""

    @abstractmethod
    def _unmap_everything_ioctl(self) -> int:
        """Ask the kernel to unmap all addresses; return how many bytes it says were. Raises OSError as it does."""

    @abstractmethod
    def _map_failure(
        self, error: OSError, run: MappedRun, iova: int | None, size: int, count: int, operation: str = "map_dma"
    ) -> VfioError:
        """The kernel's refusal in words, of the mapping of run that has size bytes at iova.

        iova: None if the kernel was to choose it. count: how many mappings the address space holds. operation: what was
        asked for.
        """

    def _map(self, run: MappedRun) -> None:
        """Make every mapping of run, in ascending order, or none."""
        call: MapCall | None = None
        try:
            self._table.enter(run)
            call = self._map_call(run)
            call.make(self.kernel)
            self._map_calls += call.made
            self._table.trust(run.iova, run.size)
        except BaseException as error:
            made = call.made if call is not None else 0
            is_open = call is not None and call.is_open
            self._map_calls += made + is_open
            count = self._table.count - run.mappings + made
            if not is_open or not is_refusal(error):
                # A call that neither succeeded nor was refused may have mapped. If another user of the address space
                # had been there before, the kernel would have refused at once.
                self._take_back(run, made, made + is_open, error)
                raise
            try:
                # First: what is charged now belongs into the explanation.
                part = run.size_of(made)
                size = run.size_of(made + 1) - part
                failure = self._outside(error, run) or self._map_failure(error, run, run.iova + part, size, count)
            finally:
                self._take_back(run, made, made, error)
            for note in getattr(error, "__notes__", ()):
                failure.add_note(note)
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

    def _take_back(self, run: MappedRun, made: int, perhaps: int, error: BaseException) -> None:
        """Undo the mapping of run, which error has ended. What cannot be unmapped stays in mappings().

        made: how many of its mappings the kernel has for certain. perhaps: how many it may have.
        """
        reached = run.size_of(perhaps)
        if reached < run.size:
            self._table.remove(run.iova + reached, run.size - reached)
        if not reached:
            return
        self._table.trust(run.iova, run.size_of(made))
        try:
            self._unmap(self._unmap_ioctl, run.iova, reached)
        except OSError as failure:
            error.add_note(f"Taking back what this call had mapped failed too, it stays mapped: {failure}")

    def _unmap_all(self) -> int:
        """Unmap what is in mappings(), with one call. Raises ShortUnmap, VfioError."""
        runs = self._table.runs()
        return self._unmap(self._unmap_ioctl, runs[0].iova, runs[-1].end - runs[0].iova) if runs else 0

    def unmap_by(self, ask: Callable[[int, int], int], iova: int, size: int) -> int:
        """Unmap a range that cuts no mapping, with one call to the kernel; return how many bytes are gone.

        ask: makes the call, of an iova and a size, and returns how many bytes the kernel says it has unmapped. Raises
        OSError as the kernel does. For a call that unmaps and does something else besides.
        Raises ShortUnmap, VfioError as unmap_dma().
        """
        with self._lock:
            try:
                return self._unmap(ask, iova, size)
            except ShortUnmap:
                raise
            except VfioError as error:
                # It may have unmapped some before it refused, as type1 does where a bitmap cannot be written.
                restored = self._proofs.confirm(iova, size)
                left = self._table.doubted(iova, size)
                if restored or left:
                    raise unproven_unmap(error, restored, sum(run.size for run in left)) from error
                raise

    def confirm(self, iova: int, size: int) -> tuple[MappedRun, ...]:
        with self._lock:
            if self._table.doubted(iova, size):
                self._layout("confirm")
                self._proofs.confirm(iova, size)
            return self._table.doubted(iova, size)

    def _unmap(self, ask: Callable[[int, int], int], iova: int, size: int) -> int:
        """As unmap_by(), but that the range is in doubt after a refusal."""
        expected = self._table.covered(iova, size)
        doubted = self._table.doubted(iova, size)
        self._table.doubt(iova, size)
        unmapped, refusal = 0, None
        try:
            unmapped = self._unmap_counted(ask, iova, size)
        except VfioError as error:
            if error.errno not in _PARTIAL_UNMAP:
                raise
            refusal = error
        if unmapped == expected:
            self._table.remove(iova, size)
            return unmapped
        certain = expected - sum(run.size for run in doubted)
        # The bytes of what was not in doubt add up: then the rest is what has to be looked at.
        parts = doubted if unmapped == certain else self._table.parts(iova, size)
        failure = self._proofs.settle(iova, size, parts)
        left = self._table.covered(iova, size)
        if refusal is not None and left == expected:
            raise refusal
        if left or not certain <= unmapped <= expected:
            raise short_unmap(iova, size, unmapped, expected, left) from failure
        return expected

    def _lose_mappings(self) -> None:
        """The kernel has dropped everything that was mapped: nothing is in mappings(), in another generation."""
        self._generation += 1
        self._table.clear()

    @property
    def _proofs(self) -> Proofs:
        # Made when it is needed: kept, it would keep this address space from being closed as soon as it is dropped.
        return Proofs(self._table, self._map_single, self._unmap_single)

    def _map_single(self, part: MappedRun) -> None:
        """One call that makes one mapping, whatever the table says. Raises OSError."""
        call = self._map_call(part)
        self._map_calls += 1
        call.make(self.kernel)

    def _unmap_single(self, iova: int, size: int) -> int:
        return self._unmap_counted(self._unmap_ioctl, iova, size)

    def _unmap_counted(self, ask: Callable[[int, int], int], iova: int, size: int) -> int:
        """One call that unmaps; return how many bytes the kernel says were: 0 for none. Raises VfioError."""
        self._unmap_calls += 1
        try:
            return ask(iova, size)
        except OSError as error:
            if not is_refusal(error):
                raise
            if error.errno == errno.ENOENT:
                return 0
            raise unmap_failure(error, {"iova": iova, "size": size}) from error
