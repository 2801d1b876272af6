"""DmaLogging: a device notes what it writes. Source: linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.device.features import Feature
from pyvfio.dma import DirtyBitmap, IovaRange, bitmap_size, bits_of
from pyvfio.errors import InvalidArgument
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.device.device import Device

_SMALLEST_PAGE = 4096


class DmaLogging(Resource):
    """Which pages of ranges the device writes, until close(). The device's child, one at a time.

    Unlike the IOMMU's dirty tracking this is the device's own account; few have it, virtual functions that can be
    migrated mostly. page_size: what a bit is to stand for, bytes; the device may note less exactly.
    """

    def __init__(self, device: Device, ranges: Sequence[IovaRange], page_size: int = _SMALLEST_PAGE) -> None:
        """ranges: whole pages of page_size, at least one, none overlapping another.

        Raises InvalidArgument, FeatureUnsupported, or VfioError: E2BIG for more ranges than the device can tell apart.
        """
        ordered = sorted(ranges, key=lambda one: one.start)
        is_overlapping = any(one.last >= other.start for one, other in pairwise(ordered))
        if not ordered or is_overlapping:
            meaning = "there must be a range, and none may overlap another"
            raise InvalidArgument(errno.EINVAL, "log DMA", meaning=meaning)
        for one in ordered:
            _check(one.start, one.last + 1 - one.start, page_size)
        self.device = device
        self.page_size = page_size
        entry = vfio.vfio_device_feature_dma_logging_range
        entries = [entry(iova=one.start, length=one.last + 1 - one.start) for one in ordered]
        array = (entry * len(entries))(*entries)
        control = vfio.vfio_device_feature_dma_logging_control(
            page_size=page_size, num_ranges=len(entries), ranges=ctypes.addressof(array)
        )
        device.features.set(Feature.DMA_LOGGING_START, bytes(control))
        try:
            super().__init__(device)
        except BaseException:
            device.features.set(Feature.DMA_LOGGING_STOP)
            raise

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """What the device has written of the range since the last read: reading clears. Multiples of page_size."""
        self._check_open()
        _check(iova, size, self.page_size)
        buffer = ctypes.create_string_buffer(bitmap_size(size, self.page_size))
        report = vfio.vfio_device_feature_dma_logging_report(
            iova=iova, length=size, page_size=self.page_size, bitmap=ctypes.addressof(buffer)
        )
        self.device.features.get(Feature.DMA_LOGGING_REPORT, type(report), bytes(report))
        return DirtyBitmap(iova, size, self.page_size, bits_of(buffer.raw, size, self.page_size))

    def _release(self) -> None:
        if not self._inherited and not self.device.closed:
            self.device.features.set(Feature.DMA_LOGGING_STOP)

    def __repr__(self) -> str:
        return f"<DmaLogging of {self.device.address}>"


def _check(iova: int, size: int, page_size: int) -> None:
    if page_size < _SMALLEST_PAGE or page_size & page_size - 1:
        meaning = f"the page size must be a power of two from {_SMALLEST_PAGE} on"
        raise InvalidArgument(errno.EINVAL, "log DMA", {"page_size": page_size}, meaning)
    if iova < 0 or size <= 0 or (iova | size) % page_size or iova + size > 1 << 64:
        meaning = f"not a range in units of {page_size:#_x}"
        raise InvalidArgument(errno.EINVAL, "log DMA", {"iova": iova, "size": size}, meaning)
