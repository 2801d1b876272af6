"""IoasInfo: where mappings of an address space of an iommufd may lie, as the kernel tells and as it is told."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyvfio.abi import iommufd as abi
from pyvfio.dma import END, IovaRange
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.kernel import host_page_size


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
