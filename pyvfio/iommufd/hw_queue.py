"""HwQueue: a guest's queue that the IOMMU reads by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.errors import NotMapped, VfioError
from pyvfio.iommufd.object import IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


class HwQueue(IommufdObject):
    """A queue in memory that stays mapped until the queue is closed. It is a child of its virtual IOMMU.

    viommu: the virtual IOMMU. kind: its IOMMU_HW_QUEUE_TYPE_*. index: which of the guest's queues of that kind it is.
    """

    def __init__(self, viommu: Viommu, kind: int, index: int, iova: int, size: int) -> None:
        """Ask the kernel for it: size bytes at iova. Viommu.hw_queue() makes one.

        Raises ClosedError, NotMapped, and VfioError: EEXIST if there is one of this index.
        Source: IOMMU_HW_QUEUE_ALLOC (Linux 6.17).
        """
        self.viommu = viommu
        self.kind = kind
        self.index = index
        argument = abi.iommu_hw_queue_alloc(viommu_id=viommu.id, type=kind, index=index, length=size)
        argument.nesting_parent_iova = iova
        arguments = {"kind": kind, "index": index, "iova": iova, "size": size}
        operation = f"queue of {viommu.name}"
        super().__init__(viommu)
        with self._allocation():
            try:
                self.iommufd.call(abi.IOMMU_HW_QUEUE_ALLOC, argument, operation, arguments, _MEANINGS)
            except VfioError as error:
                if error.errno == errno.ENOENT:
                    meaning = f"{viommu.ioas.name} does not map all of it"
                    raise NotMapped(errno.ENOENT, operation, arguments, meaning, "Map it first") from error
                raise
            self.id = argument.out_hw_queue_id

    @property
    def name(self) -> str:
        """What messages call it: queue INDEX of virtual IOMMU N."""
        return f"queue {self.index} of {self.viommu.name}"


_MEANINGS = {
    errno.EEXIST: ("the virtual IOMMU has a queue of this index already", "Close that first"),
    errno.EIO: ("the queue before it is missing", "Make queues in the order of their indexes"),
    errno.EINVAL: ("the virtual IOMMU has no queue of this index, or not of this size", "Choose another"),
    errno.EFAULT: ("its memory is not contiguous", "One huge page is: MemoryKind.HUGETLB"),
    errno.EOPNOTSUPP: (
        "the virtual IOMMU has no queues of this type",
        "IOMMU_HW_QUEUE_TYPE_* tells which belong to it",
    ),
}
