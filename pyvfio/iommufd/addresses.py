"""What an address space of an iommufd is asked about addresses.

IoasInfo: where mappings may lie. physical_range(): where in physical memory what is mapped lies, for devices without an
IOMMU, which is UNSAFE.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyvfio.abi import iommufd as abi
from pyvfio.dma import END, IovaRange
from pyvfio.errors import InvalidArgument, NotMapped, VfioError
from pyvfio.explain import Meanings, no_raw_io
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.kernel import host_page_size
from pyvfio.noiommu import PhysicalRange, PhysicalRun


@dataclass(frozen=True, slots=True)
class IoasInfo:
    """What IOMMU_IOAS_IOVA_RANGES tells.

    page_sizes: the smallest page size in bytes, alone: an iommufd tells no others. iova_ranges: where mappings may lie,
    ascending.
    """

    page_sizes: tuple[int, ...]
    iova_ranges: tuple[IovaRange, ...]


def ask_info(iommufd: Iommufd, ioas_id: int, operation: str) -> IoasInfo:
    """Ask the kernel where mappings may lie now. operation: what it is asked for, for messages. Raises VfioError."""
    room = 8
    while True:
        array = (abi.iommu_iova_range * room)()
        argument = abi.iommu_ioas_iova_ranges(ioas_id=ioas_id, num_iovas=room)
        argument.allowed_iovas = ctypes.addressof(array)
        try:
            iommufd.call(abi.IOMMU_IOAS_IOVA_RANGES, argument, operation)
        except VfioError as error:
            if error.errno != errno.EMSGSIZE or argument.num_iovas <= room:
                raise
            room = argument.num_iovas
            continue
        break
    # Without a device the kernel says one byte, but no IOMMU that can come has a smaller page than this.
    page_size = max(argument.out_iova_alignment, host_page_size())
    return IoasInfo((page_size,), tuple(IovaRange(entry.start, entry.last) for entry in array[: argument.num_iovas]))


def allow_iovas(iommufd: Iommufd, ioas_id: int, ranges: Sequence[IovaRange]) -> None:
    """Restrict the addresses that the kernel chooses to those in ranges; without any range it may choose all again.

    Raises InvalidArgument for a range that is empty or overlaps another, VfioError (EADDRINUSE) if an attached device
    reserves some of them. Source: IOMMU_IOAS_ALLOW_IOVAS.
    """
    ordered = sorted(ranges, key=lambda allowed: allowed.start)
    overlap = any(left.last >= right.start for left, right in pairwise(ordered))
    if overlap or any(not 0 <= allowed.start < allowed.last < END for allowed in ordered):
        told = ", ".join(map(str, ordered))
        meaning = "each needs two addresses or more, and none may overlap another"
        raise InvalidArgument(errno.EINVAL, f"allow iovas {told}", meaning=meaning)
    entries = [abi.iommu_iova_range(start=allowed.start, last=allowed.last) for allowed in ordered]
    array = (abi.iommu_iova_range * len(entries))(*entries)
    argument = abi.iommu_ioas_allow_iovas(ioas_id=ioas_id, num_iovas=len(ordered))
    argument.allowed_iovas = ctypes.addressof(array) if ordered else 0
    meanings = {errno.EADDRINUSE: ("a device that is attached reserves some of them", "Allow addresses in iova_ranges")}
    iommufd.call(abi.IOMMU_IOAS_ALLOW_IOVAS, argument, "allow iovas", {}, meanings)


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
