import pytest

from pyvfio.abi import iommufd, names, vfio
from pyvfio.abi.names import FdKind, ioctl_name


@pytest.mark.parametrize(
    ("kind", "request_", "name"),
    [
        (FdKind.CONTAINER, 0x3B70, "VFIO_IOMMU_GET_INFO"),
        (FdKind.SPAPR_CONTAINER, 0x3B70, "VFIO_IOMMU_SPAPR_TCE_GET_INFO"),
        (FdKind.DEVICE, 0x3B70, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"),
        (FdKind.GROUP, 0x3B67, "VFIO_GROUP_GET_STATUS"),
        (FdKind.GROUP, 0x3B70, "ioctl 0x3b70"),
        (FdKind.MIGRATION_DATA, 0x3B79, "VFIO_MIG_GET_PRECOPY_INFO"),
        (FdKind.IOMMUFD, 0x3B85, "IOMMU_IOAS_MAP"),
        (FdKind.IOMMUFD, 0x3B71, "VFIO_IOMMU_MAP_DMA"),
    ],
)
def test_a_number_is_named_after_what_it_means_on_the_descriptor(kind: FdKind, request_: int, name: str) -> None:
    assert ioctl_name(kind, request_) == name


def test_every_ioctl_of_the_headers_has_a_name() -> None:
    numbers = {**vars(vfio), **vars(iommufd)}
    ioctls = {name for name, value in numbers.items() if isinstance(value, int) and value >> 8 == ord(";")}
    assert {name for kind in FdKind for name in names._NAMES[kind]} == ioctls
