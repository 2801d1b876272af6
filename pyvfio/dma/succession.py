"""Succession: mappings of a process before this one become this one's, while devices go on with their DMA."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.abi import mman
from pyvfio.dma.address_space import Access, MappedRun
from pyvfio.dma.mapping_space import MappingSpace
from pyvfio.dma.refusals import already_mapped, check_map_arguments, check_target
from pyvfio.errors import VfioError
from pyvfio.memory import Memory

# With what a mapping of nothing is refused where nothing is mapped yet: no memory there, no room for one more.
_FREE = (errno.EFAULT, errno.ENOMEM, errno.ENOSPC)


class SucceedingSpace(MappingSpace, ABC):
    """A MappingSpace whose kernel object other processes may have mapped into, through a copy of its descriptor."""

    def take_up(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> int:
        """Have in mappings() what a process before this one has mapped here; return how many bytes that is.

        The arguments are as they were for map_dma() there, and memory is the same file, passed on. The kernel lists no
        mappings: each of these is asked for by an attempt to map nothing in its place, which EEXIST refuses. Devices go
        on with it meanwhile. Where the kernel can, the mappings and their charge become this process's; where it cannot
        they stay charged to the process that made them, or to its user.

        What is not mapped stays so. After a failure this can be tried again: what was found before is in mappings().
        Raises what map_dma() raises for arguments that cannot be, AlreadyMapped if some of it is in mappings(),
        MemlockExceeded where the charge moves, NotMapped if what is there has other bounds, and VfioError.
        Source: drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map; drivers/iommu/iommufd/io_pagetable.c.
        """
        check_target(memory, "take_up", iova, size)
        run = MappedRun(iova, size, memory, offset, access, granularity)
        with self._lock:
            layout = self._layout("take_up")
            memory.require_open()
            check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges, "take_up")
            if other := self._table.overlapping(iova, size):
                raise already_mapped(run, other, is_doubted=False)
            found = 0
            for part in self._found(run):
                self._own(part)
                found += part.size
            return found

    @abstractmethod
    def hand_over(self) -> None:
        """Close it, with the devices that were opened through it, and change nothing: what is mapped stays, and devices
        go on.

        Another process that was passed the descriptors goes on with take_up(). The kernel undoes it all when the last
        copy of them is closed. A failure leaves it closed.
        """

    def _found(self, run: MappedRun) -> list[MappedRun]:
        """The maximal parts of run that are mapped. Raises VfioError."""
        found: list[tuple[int, int]] = []
        with self._nothing(max(part.step for part in run.parts())) as address:
            for part in run.parts():
                for iova in part:
                    if not self._is_taken(iova, part.step, address):
                        continue
                    if found and found[-1][1] == iova:
                        found[-1] = found[-1][0], iova + part.step
                    else:
                        found.append((iova, iova + part.step))
        return [run.part(start, end) for start, end in found]

    def _is_taken(self, iova: int, size: int, address: int) -> bool:
        """Whether something is mapped in the range, in which an attempt is made to map what is at address: nothing."""
        try:
            self._map_nothing_ioctl(iova, size, address)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return True
            if error.errno in _FREE:
                return False
            raise VfioError(error.errno or errno.EIO, "take_up", {"iova": iova, "size": size}) from error
        # Where no IOMMU pins anything yet, nothing can be mapped like anything else.
        try:
            self._unmap_ioctl(iova, size)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, "take_up", {"iova": iova, "size": size}) from error
        return False

    @contextmanager
    def _nothing(self, size: int) -> Iterator[int]:
        """The address of size bytes that cannot be read, nor be anything else's meanwhile."""
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        try:
            address = self.kernel.mmap(size, mman.PROT_NONE, flags)
        except OSError as error:
            raise VfioError(error.errno or errno.ENOMEM, "take_up", {"size": size}) from error
        try:
            yield address
        finally:
            self.kernel.munmap(address, size)

    def _own(self, run: MappedRun) -> None:
        """run is mapped, for a process before this one: enter it, and make it this process's as far as can be."""
        self._table.add(run)

    @abstractmethod
    def _map_nothing_ioctl(self, iova: int, size: int, address: int) -> None:
        """Ask the kernel to map size bytes at address for reading, in one mapping at iova. Raises OSError."""
