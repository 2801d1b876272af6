"""HwQueue: a guest's queue that the IOMMU reads by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.errors import NotMapped, VfioError
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


class HwQueue(Resource):
    """The memory below it stays mapped until it is closed. A child of its virtual IOMMU."""

    def __init__(self, viommu: Viommu, kind: int, index: int, iova: int, size: int) -> None:
        """See Viommu.hw_queue."""
        viommu._check_open()
        self.viommu = viommu
        self.kind = kind
        self.index = index
        self.iommufd = viommu.iommufd
        argument = abi.iommu_hw_queue_alloc(viommu_id=viommu.id, type=kind, index=index, length=size)
        argument.nesting_parent_iova = iova
        arguments = {"kind": kind, "index": index, "iova": iova, "size": size}
        operation = f"queue of {viommu.name}"
        try:
            self.iommufd.call(abi.IOMMU_HW_QUEUE_ALLOC, argument, operation, arguments, _MEANINGS)
        except VfioError as error:
            if error.errno == errno.ENOENT:
                meaning = f"{viommu.ioas.name} does not map all of it"
                raise NotMapped(errno.ENOENT, operation, arguments, meaning, "Map it first") from error
            raise
        self.id = argument.out_hw_queue_id
        super().__init__(viommu)

    def _release(self) -> None:
        if not self._inherited:
            self.iommufd.destroy(self.id, f"queue {self.index} of {self.viommu.name}")

    def __repr__(self) -> str:
        return f"<HwQueue {self.index} of {self.viommu!r}{' closed' if self._closed else ''}>"


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
