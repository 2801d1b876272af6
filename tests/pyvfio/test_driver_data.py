"""What drivers are told: each struct as linux/iommufd.h has it."""

from __future__ import annotations

import pytest

from pyvfio import (
    AmdGuest,
    ArmSmmuv3Invalidation,
    ArmSmmuv3Stage1,
    DriverData,
    RawData,
    VtdInvalidation,
    VtdStage1,
    VtdStage1Flags,
)
from pyvfio.abi import iommufd as abi


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


@pytest.mark.parametrize(
    ("data", "kind", "content"),
    [
        (VtdStage1(0x1000, 48), abi.IOMMU_HWPT_DATA_VTD_S1, words(0, 0x1000, 48)),
        (VtdStage1(0x1000, 57, VtdStage1Flags.SRE | VtdStage1Flags.WPE), 1, words(5, 0x1000, 57)),
        (ArmSmmuv3Stage1((1, 2)), abi.IOMMU_HWPT_DATA_ARM_SMMUV3, words(1, 2)),
        (AmdGuest((1, 2, 3, 4)), abi.IOMMU_HWPT_DATA_AMD_GUEST, words(1, 2, 3, 4)),
        (VtdInvalidation(0x2000, 3), abi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, words(0x2000, 3, 0)),
        (VtdInvalidation(0x2000, 3, is_leaf=True), 0, words(0x2000, 3, abi.IOMMU_VTD_INV_FLAGS_LEAF)),
        (VtdInvalidation.everything(), 0, words(0, (1 << 64) - 1, 0)),
        (ArmSmmuv3Invalidation((0x30, 1)), abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3, words(0x30, 1)),
        (RawData(7, b"abc"), 7, b"abc"),
    ],
)
def test_a_struct_is_as_the_header_has_it(data: DriverData, kind: int, content: bytes) -> None:
    assert (data.type, bytes(data)) == (kind, content)
