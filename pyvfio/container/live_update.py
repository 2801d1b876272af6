"""LiveUpdate: mappings that stay, and devices that go on, while one program takes a container over from another."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace

from pyvfio.abi import vfio
from pyvfio.container.meanings import INVALIDATE, not_waiting
from pyvfio.dma import Access, Layout, MapCall, MappedRun, SucceedingSpace, check_map_arguments, check_target
from pyvfio.errors import VfioError
from pyvfio.explain import explain
from pyvfio.memory import Memory


class LiveUpdate(SucceedingSpace, ABC):
    """What a Container can do for a live update.

    fd: the container's descriptor.
    """

    @property
    @abstractmethod
    def fd(self) -> int:
        """The number of the container's descriptor."""

    def invalidate_vaddrs(self) -> int:
        """Let every mapping live on without this process's addresses; return the bytes concerned.

        This is the first step of a live update, in which another program takes the container over while its devices go
        on with their DMA. The old program calls invalidate_vaddrs(), and passes on the descriptors of the container, of
        its groups and devices, and of the files of its memory. The new one makes its own objects of them with from_fd()
        and Memory, and calls update_vaddr() for each mapping. type1 only; an Iommufd has change_process() instead.

        Pages stay pinned and devices go on with them. No group can be attached until update_vaddr() has given every
        mapping an address again. Raises VfioError if the kernel cannot (before Linux 5.12) or if the addresses are
        invalid already; nothing has changed then.
        Source: VFIO_DMA_UNMAP_FLAG_VADDR, VFIO_UPDATE_VADDR; drivers/vfio/vfio_iommu_type1.c.
        """
        with self._lock:
            self._require_updates("invalidate_vaddrs")
            flags = vfio.VFIO_DMA_UNMAP_FLAG_VADDR | vfio.VFIO_DMA_UNMAP_FLAG_ALL
            argument = vfio.vfio_iommu_type1_dma_unmap(flags=flags)
            try:
                self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
            except OSError as error:
                raise explain(error, "invalidate_vaddrs", {}, INVALIDATE) from error
            return argument.size

    def update_vaddr(
        self, iova: int, memory: Memory, offset: int, size: int, *, granularity: int | None = None
    ) -> None:
        """Tell the kernel where in this process the memory under existing mappings is; they become this process's.

        iova, size and granularity are as they were for map_dma(), and memory is the same file, passed on. The mappings
        are in mappings() afterwards. A failure leaves the mappings without an address from the one on that it names.
        Raises NotMapped if no such mapping waits for an address, InvalidArgument, ClosedError, MemlockExceeded.
        Source: VFIO_DMA_MAP_FLAG_VADDR; see invalidate_vaddrs().
        """
        check_target(memory, "update_vaddr", iova, size)
        run = MappedRun(iova, size, memory, offset, Access.READ_WRITE, granularity)
        with self._lock:
            layout = self._require_updates("update_vaddr")
            memory.require_open()
            check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges, "update_vaddr")
            if self._table.bisected(iova, size):
                raise not_waiting(iova, size, errno.EINVAL)
            known = self._table.parts(iova, size)
            # Before the kernel is asked: from then on it is this memory that must not go away.
            self._table.doubt(iova, size)
            self._table.put(iova, size, replace(run, access=known[0].access) if known else run)
            call = self._call(run, vfio.VFIO_DMA_MAP_FLAG_VADDR)
            try:
                call.make(self.kernel)
            except OSError as error:
                done = run.size_of(call.made)
                refused, left = iova + done, size - done
                self._table.put(refused, left, *(old.part(refused, old.end) for old in known if old.end > refused))
                self._table.trust(iova, size)
                part = run.size_of(call.made + 1) - done
                if error.errno in (errno.ENOENT, errno.EINVAL):
                    raise not_waiting(refused, part, error.errno) from error
                raise self._map_failure(error, run, refused, part, self.mapping_count, "update_vaddr") from error
            self._table.trust(iova, size)

    def _own(self, run: MappedRun) -> None:
        if not self._has_updates():
            super()._own(run)
            return
        assert isinstance(run.memory, Memory)
        try:
            self._invalidate(run)
        except OSError as error:
            # The kernel undoes all of it if a process before this one has come no further with one of them.
            if error.errno != errno.EINVAL:
                raise explain(error, "take_up", {"iova": run.iova, "size": run.size}, INVALIDATE) from error
            for each in run.single_mappings():
                # If that is not so, update_vaddr() says what is the matter.
                with suppress(OSError):
                    self._invalidate(each)
        self.update_vaddr(run.iova, run.memory, run.offset, run.size, granularity=run.granularity)
        self._table.put(run.iova, run.size, run)

    def _invalidate(self, run: MappedRun) -> None:
        argument = vfio.vfio_iommu_type1_dma_unmap(flags=vfio.VFIO_DMA_UNMAP_FLAG_VADDR, iova=run.iova, size=run.size)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)

    def _map_nothing_ioctl(self, iova: int, size: int, address: int) -> None:
        flags = vfio.VFIO_DMA_MAP_FLAG_READ
        argument = vfio.vfio_iommu_type1_dma_map(flags=flags, vaddr=address, iova=iova, size=size)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_MAP_DMA, argument)

    def _has_updates(self) -> bool:
        try:
            return bool(self.kernel.ioctl(self.fd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_UPDATE_VADDR))
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, "check VFIO_UPDATE_VADDR") from error

    def _require_updates(self, operation: str) -> Layout:
        layout = self._layout(operation)
        if not self._has_updates():
            if self.is_iommufd:
                meaning, advice = "the container is iommufd's compatibility", "An Iommufd has change_process() instead"
            else:
                meaning, advice = "the container has mediated devices, or the kernel is older than Linux 5.12", ""
            raise VfioError(errno.EOPNOTSUPP, operation, {}, meaning, advice)
        return layout

    def _call(self, run: MappedRun, flags: int) -> MapCall:
        # Source: drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map.
        argument = vfio.vfio_iommu_type1_dma_map(flags=flags)
        address = run.memory.address + run.offset
        return MapCall(run, self.fd, vfio.VFIO_IOMMU_MAP_DMA, argument, "vaddr", address, "size")
