"""BitmapFile: dirty pages as a file with a bit for each page of a region."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Self

from pyvfio.errors import VfioError
from virtiomem.runs import Run


class BitmapFile:
    """A bit for each page, the first one of each byte the least significant; all are clear at first.

    All of the file is there from the beginning, so that no page that was read is lost because the disk is full.
    """

    def __init__(self, path: Path, page_size: int, region_size: int) -> None:
        """Make or replace the file. page_size: bytes of a page. region_size: bytes of all. Raises OSError."""
        self._page_size = page_size
        self._bits = bytearray(-(-region_size // page_size // 8))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(self._fd, 0, len(self._bits))
        except OSError as error:
            os.close(self._fd)
            raise VfioError(
                error.errno or errno.EIO,
                f"write {path}",
                {"size": len(self._bits)},
                "there is no room for the bitmap, and no page was read",
            ) from error

    def add(self, run: Run) -> None:
        """Set the bits of the pages of run, which is in bytes from the start of the region. Raises OSError."""
        first, end = run.start // self._page_size, run.end // self._page_size
        start, stop = first // 8, -(-end // 8)
        known = int.from_bytes(self._bits[start:stop], "little")
        known |= (1 << end - start * 8) - (1 << first - start * 8)
        self._bits[start:stop] = known.to_bytes(stop - start, "little")
        with memoryview(self._bits) as view:
            while start < stop:
                start += os.pwrite(self._fd, view[start:stop], start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
