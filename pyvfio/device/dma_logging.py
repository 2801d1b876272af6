"""DmaLogging: a device notes which pages it writes. Source: linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from itertools import pairwise

from pyvfio.abi import vfio
from pyvfio.device.features import Feature, Features
from pyvfio.dma import DirtyBitmap, IovaRange, bitmap_size, bits_of
from pyvfio.errors import InvalidArgument
from pyvfio.resource import Resource

_SMALLEST_PAGE = 4096


class DmaLogging(Resource):
    """The device notes which pages of some ranges it writes, until close(). A child of the device, one at a time.

    The IOMMU's dirty tracking is another thing: this is the device's own account. Few devices have it, mostly virtual
    functions that can be migrated.
    device: the device. page_size: how many bytes a bit stands for; the device may note less exactly.
    """

    def __init__(self, features: Features, ranges: Sequence[IovaRange], page_size: int = _SMALLEST_PAGE) -> None:
        """features: of the device. ranges: device addresses in whole pages of page_size bytes; at least one range, of
        which none overlaps another.

        Raises InvalidArgument for other ranges, FeatureUnsupported, and VfioError: E2BIG for more ranges than the
        device can tell apart.
        """
        ordered = sorted(ranges, key=lambda one: one.start)
        is_overlapping = any(one.last >= other.start for one, other in pairwise(ordered))
        if not ordered or is_overlapping:
            meaning = "there must be a range, and none may overlap another"
            raise InvalidArgument(errno.EINVAL, "log DMA", meaning=meaning)
        for one in ordered:
            _check(one.start, one.last + 1 - one.start, page_size)
        self.device = features.device
        self._features = features
        self.page_size = page_size
        entry = vfio.vfio_device_feature_dma_logging_range
        entries = [entry(iova=one.start, length=one.last + 1 - one.start) for one in ordered]
        array = (entry * len(entries))(*entries)
        control = vfio.vfio_device_feature_dma_logging_control(
            page_size=page_size, num_ranges=len(entries), ranges=ctypes.addressof(array)
        )
        features.set(Feature.DMA_LOGGING_START, bytes(control))
        try:
            super().__init__(features.device)
        except BaseException:
            features.set(Feature.DMA_LOGGING_STOP)
            raise

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """Which pages of the range the device has written since the last read, or since the start: reading clears.

        iova and size are bytes and multiples of page_size. Raises InvalidArgument, VfioError.
        """
        self.require_open()
        _check(iova, size, self.page_size)
        buffer = ctypes.create_string_buffer(bitmap_size(size, self.page_size))
        report = vfio.vfio_device_feature_dma_logging_report(
            iova=iova, length=size, page_size=self.page_size, bitmap=ctypes.addressof(buffer)
        )
        self._features.get(Feature.DMA_LOGGING_REPORT, type(report), bytes(report))
        return DirtyBitmap(iova, size, self.page_size, bits_of(buffer.raw, size, self.page_size))

    def _release(self) -> None:
        if not self._inherited and not self.device.closed:
            self._features.set(Feature.DMA_LOGGING_STOP)

    def __repr__(self) -> str:
        return f"<DmaLogging of {self.device.address}>"


def _check(iova: int, size: int, page_size: int) -> None:
    """Raises InvalidArgument unless page_size is a page size and the range has whole pages of it."""
    if page_size < _SMALLEST_PAGE or page_size & page_size - 1:
        meaning = f"the page size must be a power of two from {_SMALLEST_PAGE} on"
        raise InvalidArgument(errno.EINVAL, "log DMA", {"page_size": page_size}, meaning)
    if iova < 0 or size <= 0 or (iova | size) % page_size or iova + size > 1 << 64:
        meaning = f"not a range in units of {page_size:#_x}"
        raise InvalidArgument(errno.EINVAL, "log DMA", {"iova": iova, "size": size}, meaning)
