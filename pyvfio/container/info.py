"""What the IOMMU of a container tells of itself: VFIO_IOMMU_GET_INFO."""

from __future__ import annotations

import ctypes
import enum
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from pyvfio.abi import iommufd, vfio
from pyvfio.container.meanings import GET_INFO, NOIOMMU_OFF, SET_IOMMU
from pyvfio.dma import END, IovaRange
from pyvfio.errors import VfioError
from pyvfio.explain import explain, no_raw_io
from pyvfio.kernel import Kernel, chain, host_page_size, query
from pyvfio.reserved import firmware_claim

FIRMWARE = (errno.EINVAL, errno.EPERM)
"""What a group that firmware claims is refused with: since Linux 6.6, and before."""
# What iommufd answers, which has no limit of its own: drivers/iommu/iommufd/vfio_compat.c.
_NO_MAPPING_LIMIT = 0xFFFF_FFFF
# Kernels before 6.18 lose a mapping of the last page of all: it can be neither found nor unmapped (vfio_find_dma).
_LAST = END - 0x1_0000 - 1


class IommuType(enum.IntEnum):
    """Which rules a container follows: the values that VFIO_SET_IOMMU takes."""

    TYPE1 = vfio.VFIO_TYPE1_IOMMU
    TYPE1v2 = vfio.VFIO_TYPE1v2_IOMMU
    NOIOMMU = vfio.VFIO_NOIOMMU_IOMMU
    """No IOMMU: devices work, and nothing can be mapped for them. A container of groups without an IOMMU has it."""


@dataclass(frozen=True, slots=True)
class IommuInfo:
    """What VFIO_IOMMU_GET_INFO says.

    page_sizes: the page sizes of the IOMMU in bytes, ascending. iova_ranges: the device addresses that it translates,
    ascending. mappings_left: how many more mappings the container takes; None if the kernel sets no limit or, before
    Linux 5.10, does not say. dirty_page_size: how many bytes a bit of a dirty bitmap stands for; largest_dirty_bitmap:
    the bytes of the largest bitmap that can be asked for; both None in a container without dirty tracking.
    """

    page_sizes: tuple[int, ...]
    iova_ranges: tuple[IovaRange, ...]
    mappings_left: int | None
    dirty_page_size: int | None
    largest_dirty_bitmap: int | None


def iommu_info(kernel: Kernel, fd: int) -> IommuInfo:
    """Ask the container with the descriptor fd. Raises VfioError for a container that has no IOMMU yet."""
    try:
        info, data = query(kernel, fd, vfio.VFIO_IOMMU_GET_INFO, vfio.vfio_iommu_type1_info)
    except OSError as error:
        raise explain(error, "get IOMMU info", {}, GET_INFO) from error
    ranges: list[IovaRange] = []
    left = dirty_page_size = largest_dirty_bitmap = None
    for capability in chain(data, info.cap_offset if info.flags & vfio.VFIO_IOMMU_INFO_CAPS else 0):
        match capability.id:
            case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                head = capability.read(vfio.vfio_iommu_type1_info_cap_iova_range)
                entries = capability.read_array(vfio.vfio_iova_range, ctypes.sizeof(head), head.nr_iovas)
                ranges = [IovaRange(entry.start, min(entry.end, _LAST)) for entry in entries]
            case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                available = capability.read(vfio.vfio_iommu_type1_info_dma_avail).avail
                left = None if available == _NO_MAPPING_LIMIT else available
            case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                migration = capability.read(vfio.vfio_iommu_type1_info_cap_migration)
                dirty_page_size = migration.pgsize_bitmap & -migration.pgsize_bitmap
                largest_dirty_bitmap = migration.max_dirty_bitmap_size
    page_sizes = info.iova_pgsizes if info.flags & vfio.VFIO_IOMMU_INFO_PGSIZES else host_page_size()
    return IommuInfo(
        tuple(1 << bit for bit in range(64) if page_sizes >> bit & 1),
        tuple(ranges) or (IovaRange(0, _LAST),),
        left,
        dirty_page_size,
        largest_dirty_bitmap,
    )


def has_iommu(kernel: Kernel, fd: int) -> bool:
    """Whether the container with the descriptor fd has an IOMMU, as it has from VFIO_SET_IOMMU until its last group has
    left. What type it is does not matter."""
    try:
        kernel.ioctl(fd, vfio.VFIO_IOMMU_GET_INFO, vfio.vfio_iommu_type1_info())
    except OSError as error:
        # Any other answer comes from the IOMMU's driver.
        return error.errno != errno.EINVAL
    return True


def require_container(kernel: Kernel, fd: int) -> None:
    """Raise VfioError if the descriptor fd is no container's."""
    try:
        is_one = kernel.ioctl(fd, vfio.VFIO_GET_API_VERSION) == vfio.VFIO_API_VERSION
    except OSError as error:
        raise VfioError(error.errno or errno.EIO, "container", {"fd": fd}, "it is no VFIO container") from error
    if not is_one:
        raise VfioError(errno.ENOTTY, "container", {"fd": fd}, "it is no VFIO container")


def set_iommu(kernel: Kernel, fd: int, kinds: Sequence[IommuType], group: int) -> IommuType:
    """Choose the first of kinds that the container with the descriptor fd can be; return it. Raises VfioError.

    group: the number of the group that is in it, for what firmware claims.

    Source: VFIO_CHECK_EXTENSION, VFIO_SET_IOMMU.
    """
    for kind in kinds:
        if kernel.ioctl(fd, vfio.VFIO_CHECK_EXTENSION, kind) > 0:
            operation = f"set IOMMU {kind.name}"
            try:
                kernel.ioctl(fd, vfio.VFIO_SET_IOMMU, kind)
            except OSError as error:
                if error.errno == errno.EPERM and kind is IommuType.NOIOMMU:
                    raise no_raw_io(operation) from error
                if error.errno in FIRMWARE and (claim := firmware_claim(kernel, group, operation)):
                    raise claim from error
                raise explain(error, operation, {}, SET_IOMMU) from error
            return kind
    meaning, advice = SET_IOMMU[errno.ENODEV] if IommuType.NOIOMMU not in kinds else NOIOMMU_OFF
    raise VfioError(errno.ENODEV, "set IOMMU", {}, meaning, advice)


def without_iommu(kernel: Kernel, fd: int, operation: str) -> VfioError:
    """The error for an operation that needs an IOMMU, of a container in which this process has chosen none."""
    try:
        iommu_info(kernel, fd)
    except VfioError:
        return VfioError(
            errno.EINVAL, operation, meaning="the container has no IOMMU yet", advice="Attach a group first"
        )
    return VfioError(
        errno.EINVAL,
        operation,
        meaning="the container has an IOMMU that another process has chosen, and nobody has said of which type",
        advice="Container.from_fd(fd, iommu_type=...), with the iommu_type that the container has there",
    )


def is_of_iommufd(kernel: Kernel, fd: int) -> bool:
    """Whether a container is one of iommufd's compatibility, whose descriptor takes iommufd's own ioctls too."""
    try:
        kernel.ioctl(fd, iommufd.IOMMU_VFIO_IOAS, iommufd.iommu_vfio_ioas(op=iommufd.IOMMU_VFIO_IOAS_GET))
    except OSError as error:
        # ENODEV: an iommufd without an address space for containers.
        return error.errno == errno.ENODEV
    return True
