"""What a simulated device notes of its writes.

Source: drivers/vfio/vfio_main.c, vfio_ioctl_device_feature_logging_start and _report.
"""

from __future__ import annotations

import errno
import struct

from pyvfio.sim.process import fail, read_memory, write_memory

_PAGE = 4096
_MOST_RANGES = _PAGE // 16
_END = 1 << 64


class DmaLog:
    """The pages that one device has written since start(), in the ranges that start() was told."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] | None = None
        self._written: set[int] = set()

    def start(self, data: bytes) -> None:
        """data: struct vfio_device_feature_dma_logging_control. Raises OSError as the kernel does."""
        page_size, count, _, address = struct.unpack("<QIIQ", data)
        if not count:
            raise fail(errno.EINVAL)
        if count > _MOST_RANGES:
            raise fail(errno.E2BIG)
        ranges: list[tuple[int, int]] = []
        for number in range(count):
            iova, length = struct.unpack("<QQ", read_memory(address + 16 * number, 16))
            if (iova | length) & (page_size - 1) % _END:
                raise fail(errno.EINVAL)
            if iova + length >= _END:
                raise fail(errno.EOVERFLOW)
            if any(iova < start + size and start < iova + length for start, size in ranges):
                raise fail(errno.EINVAL)
            ranges.append((iova, length))
        if self._ranges is not None:
            raise fail(errno.EINVAL)
        self._ranges = ranges

    def stop(self) -> None:
        self._ranges = None
        self._written = set()

    def note(self, iova: int, size: int) -> None:
        """The device writes size bytes."""
        for start, length in self._ranges or ():
            first, last = max(iova, start), min(iova + size, start + length)
            self._written |= set(range(first // _PAGE, -(-last // _PAGE)))

    def report(self, data: bytes) -> None:
        """Set the bits of written pages in the program's bitmap, and forget these pages.

        data: struct vfio_device_feature_dma_logging_report. Raises OSError as the kernel does.
        """
        iova, length, page_size, address = struct.unpack("<QQQQ", data)
        if page_size < _PAGE or page_size & page_size - 1:
            raise fail(errno.EINVAL)
        if iova + length >= _END:
            raise fail(errno.EOVERFLOW)
        if self._ranges is None:
            raise fail(errno.EINVAL)
        told = {page for page in self._written if iova <= page * _PAGE < iova + length}
        if not told:
            return
        self._written -= told
        size = -(-length // page_size // 64) * 8
        bits = int.from_bytes(read_memory(address, size), "little")
        for page in told:
            bits |= 1 << (page * _PAGE - iova) // page_size
        write_memory(address, bits.to_bytes(size, "little"))
