"""The bytes of a buffer."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.errors import InvalidArgument

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def octets_of(data: ReadableBuffer) -> memoryview[int]:
    """A contiguous buffer as its bytes, whatever its items are: its len() is how many bytes there are.

    Raises InvalidArgument for a buffer with gaps, such as every second byte of another, and for one with several
    dimensions whose last index is not the fastest.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise InvalidArgument(errno.EINVAL, "buffer", meaning="its bytes do not lie side by side", advice="bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")
