"""Reserved fields of iommufd's commands, which a program must leave zero."""

from __future__ import annotations

import ctypes
import errno

import pytest

from pyvfio import Ioas, Kernel
from pyvfio.abi import iommufd as abi
from pyvfio.abi.types import Size, offset_of

NOWHERE = 99
"""The number of no object."""

WITH_RESERVED: dict[int, tuple[Size, int]] = {
    abi.IOMMU_IOAS_IOVA_RANGES: (abi.iommu_ioas_iova_ranges(ioas_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_IOAS_ALLOW_IOVAS: (abi.iommu_ioas_allow_iovas(ioas_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_IOAS_MAP: (abi.iommu_ioas_map(ioas_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_IOAS_CHANGE_PROCESS: (abi.iommu_ioas_change_process(), errno.EOPNOTSUPP),
    abi.IOMMU_OPTION: (abi.iommu_option(object_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_VFIO_IOAS: (abi.iommu_vfio_ioas(ioas_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_GET_HW_INFO: (abi.iommu_hw_info(dev_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_HWPT_ALLOC: (abi.iommu_hwpt_alloc(dev_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_HWPT_SET_DIRTY_TRACKING: (abi.iommu_hwpt_set_dirty_tracking(hwpt_id=NOWHERE), errno.ENOENT),
    abi.IOMMU_HWPT_GET_DIRTY_BITMAP: (abi.iommu_hwpt_get_dirty_bitmap(hwpt_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_HWPT_INVALIDATE: (abi.iommu_hwpt_invalidate(hwpt_id=NOWHERE), errno.EOPNOTSUPP),
    abi.IOMMU_VIOMMU_ALLOC: (abi.iommu_viommu_alloc(dev_id=NOWHERE, type=NOWHERE), errno.ENOENT),
    abi.IOMMU_VEVENTQ_ALLOC: (abi.iommu_veventq_alloc(viommu_id=NOWHERE, type=NOWHERE), errno.EOPNOTSUPP),
}
"""Commands of iommufd with a reserved field, and the errno when that is not zero: two of them do not look at it."""


@pytest.mark.needs("iommufd")
def test_reserved_fields_are_refused_before_anything_else(mock_kernel: Kernel) -> None:
    with Ioas(kernel=mock_kernel) as space:
        answers = {}
        for request, (command, _) in WITH_RESERVED.items():
            filled = bytearray(bytes(command))
            filled[offset_of(type(command), "__reserved")] = 1
            with pytest.raises(OSError, match=r"Operation not supported|No such file") as caught:
                mock_kernel.ioctl(space.iommufd.fd, request, (ctypes.c_char * len(filled)).from_buffer(filled))
            answers[request] = caught.value.errno
        assert answers == {request: code for request, (_, code) in WITH_RESERVED.items()}
