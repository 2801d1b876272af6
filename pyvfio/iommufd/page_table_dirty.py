"""Dirty tracking of an IO page table: the IOMMU notes what devices write."""

from __future__ import annotations

import ctypes
import errno
from functools import partial
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.dma import DirtyBitmap, DirtyTracking, bitmap_size, bits_of

if TYPE_CHECKING:
    from pyvfio.iommufd.page_table import HwPageTable

# Bytes one IOMMU_HWPT_GET_DIRTY_BITMAP is asked about: the bitmap of 4 KiB pages is 8 MiB.
_LARGEST = 1 << 38


class PageTableDirtyTracking(DirtyTracking):
    """The IOMMU notes which pages the devices attached to a page table write, until close().

    Only what devices really wrote is dirty. table: the page table, whose child it is; HwPageTable.track_dirty() makes
    one.
    """

    def __init__(self, table: HwPageTable) -> None:
        """Begin to track. Raises ClosedError, and VfioError: EOPNOTSUPP unless table was made with dirty_tracking.

        Source: IOMMU_HWPT_SET_DIRTY_TRACKING.
        """
        self.table = table
        # First: a failure here must not leave the IOMMU tracking.
        page_size = table.ioas.page_sizes[0]
        self._set(abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE, "start dirty tracking")
        super().__init__(table, table.ioas, page_size, _LARGEST)

    def peek(self, iova: int, size: int) -> DirtyBitmap:
        """What was written of the range, as read() tells it, without clearing it: the next read() tells it again.

        iova and size are bytes and multiples of page_size. Raises InvalidArgument, NotMapped, VfioError.
        Source: IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR.
        """
        self.require_open()
        with self._lock:
            return self._collect(iova, size, partial(self._ask, flags=abi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR))

    def _read(self, iova: int, size: int) -> int:
        return self._ask(iova, size)

    def _ask(self, iova: int, size: int, flags: int = 0) -> int:
        """The bits of a range without holes. flags: IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or none."""
        table = self.table
        buffer = ctypes.create_string_buffer(bitmap_size(size, self.page_size))
        argument = abi.iommu_hwpt_get_dirty_bitmap(hwpt_id=table.id, iova=iova, length=size, page_size=self.page_size)
        argument.flags, argument.data = flags, ctypes.addressof(buffer)
        arguments = {"iova": iova, "size": size}
        table.iommufd.call(abi.IOMMU_HWPT_GET_DIRTY_BITMAP, argument, "read dirty bitmap", arguments)
        return bits_of(buffer.raw, size, self.page_size)

    def _set(self, flags: int, operation: str) -> None:
        """Turn tracking on or off. Raises VfioError."""
        argument = abi.iommu_hwpt_set_dirty_tracking(hwpt_id=self.table.id, flags=flags)
        meanings = {
            errno.EOPNOTSUPP: (
                "the page table was not made for it",
                "Ioas.page_table(device, dirty_tracking=True), where hardware_info() tells that the IOMMU can",
            )
        }
        self.table.iommufd.call(abi.IOMMU_HWPT_SET_DIRTY_TRACKING, argument, operation, {}, meanings)

    def _release(self) -> None:
        if not self._inherited:
            self._set(0, "stop dirty tracking")
