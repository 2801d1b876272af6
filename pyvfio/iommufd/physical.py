"""Physical addresses of what an address space of an iommufd maps, for devices without an IOMMU. UNSAFE."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from pyvfio.abi import iommufd as abi
from pyvfio.dma import END
from pyvfio.errors import InvalidArgument, NotMapped, VfioError
from pyvfio.explain import Meanings, no_raw_io
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.noiommu import PhysicalRange, PhysicalRun


def physical_range(iommufd: Iommufd, ioas_id: int, iova: int, size: int | None) -> PhysicalRange:
    """Where what is mapped at iova lies, and how many bytes from there on are contiguous; size at most.

    Raises InvalidArgument, NotMapped, VfioError. Source: IOMMU_IOAS_NOIOMMU_GET_PA.
    """
    arguments = {"iova": iova} if size is None else {"iova": iova, "size": size}
    size = END - 1 if size is None else size
    if not (0 <= iova < END - 1 and 0 < size < END):
        meaning = "iova must be below 2**64 - 1, and the size a byte or more"
        raise InvalidArgument(errno.EINVAL, "physical range", arguments, meaning)
    argument = abi.iommu_ioas_noiommu_get_pa(ioas_id=ioas_id, iova=iova, length=size)
    try:
        iommufd.call(abi.IOMMU_IOAS_NOIOMMU_GET_PA, argument, "physical range", arguments, _MEANINGS)
    except VfioError as error:
        if error.errno == errno.EPERM:
            raise no_raw_io("physical range") from error
        if error.errno == errno.ENOENT:
            raise NotMapped(errno.ENOENT, "physical range", arguments, "nothing is mapped there") from error
        raise
    return PhysicalRange(argument.out_phys, argument.length)


def physical_pieces(iommufd: Iommufd, ioas_id: int, iova: int, size: int) -> Iterator[PhysicalRun]:
    """Where each of size bytes from iova on lies, as the kernel tells it, piece by piece; offsets are from iova."""
    offset = 0
    while offset < size:
        found = physical_range(iommufd, ioas_id, iova + offset, size - offset)
        yield PhysicalRun(offset, found.address, found.size)
        offset += found.size


_MEANINGS: Meanings = {
    errno.ENOTTY: (
        "this kernel's iommufd has no devices without an IOMMU: those are new in Linux 7.3, with CONFIG_VFIO_NOIOMMU",
        "pyvfio.noiommu.UnsafePhysicalMemory tells where locked huge pages lie",
    ),
    errno.EOPNOTSUPP: (
        "no device without an IOMMU is attached, or one that has an IOMMU was attached before it",
        "Open it with unsafe_noiommu=True, in an address space of its own",
    ),
}
