"""SharedContainer: a container that another process owns, and has handed over."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from pyvfio.container.container import Container
from pyvfio.container.info import IommuInfo, IommuType, has_iommu
from pyvfio.dma import Access, SharedSpace
from pyvfio.errors import ClosedError, VfioError
from pyvfio.kernel import Kernel
from pyvfio.memory import DmaTarget


class SharedContainer(SharedSpace, Container):
    """A Container of another process, which has put its groups in it: this object maps there, and opens nothing.

    It unmaps only what was mapped through itself, and close() closes this process's descriptor alone. What it maps is
    pinned and charged to the process that maps. When the owner's last group has left the container, the kernel has
    dropped every mapping: what finds that out closes the object, and raises ClosedError if it was to map. What an owner
    maps at the same addresses is refused to one of the two, as EEXIST.
    """

    @classmethod
    def from_fd(
        cls, fd: int, *, kernel: Kernel | None = None, iommu_type: IommuType | None = IommuType.TYPE1v2
    ) -> Self:
        """A container from the descriptor that its owner has handed over, with a group in it.

        Takes fd over: it is closed with the object, or here when this fails. iommu_type: the type that its owner has
        set. Raises VfioError if fd is no container, or has no IOMMU yet.
        """
        try:
            return super().from_fd(fd, kernel=kernel, iommu_type=iommu_type)
        except VfioError as error:
            if error.errno != errno.EINVAL:
                raise
            meaning, advice = "it has no IOMMU yet: no group is in it", "Attach a group first, and lend it then"
            raise VfioError(errno.EINVAL, "share container", {"fd": fd}, meaning, advice) from error

    @property
    def name(self) -> str:
        """What messages call it: by the number of the descriptor."""
        return f"container {self.path}"

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
        with self._watching("map_dma"):
            super().map_dma(iova, memory, offset, size, access, granularity=granularity)

    def unmap_dma(self, iova: int, size: int) -> int:
        mapped = sum(run.size for run in self.mappings_in(iova, size))
        try:
            return super().unmap_dma(iova, size)
        except VfioError:
            # The kernel has unmapped it already, with everything else.
            if mapped and self._has_lost_owner():
                return mapped
            raise

    @property
    def mappings_left(self) -> int | None:
        """As Container has it. Raises ClosedError when the owner's last group has left."""
        with self._watching("mappings_left"):
            return super().mappings_left

    def _ask_layout(self, operation: str) -> IommuInfo:
        with self._watching(operation):
            return super()._ask_layout(operation)

    @contextmanager
    def _watching(self, operation: str) -> Iterator[None]:
        """What fails in the with block because the owner's last group has left raises ClosedError instead."""
        try:
            yield
        except VfioError as error:
            if self._has_lost_owner():
                meaning = "its owner's last group has left the container, and every mapping is gone with it"
                raise ClosedError(errno.EBADF, operation, meaning=meaning) from error
            raise

    def _has_lost_owner(self) -> bool:
        """Whether the container has no IOMMU any more; the object is closed then."""
        if self.closed:
            return False
        with self.descriptor.in_use() as fd:
            if has_iommu(self.kernel, fd):
                return False
        self.close()
        return True
