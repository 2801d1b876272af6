"""Registers of a device as a dma-buf. Source: drivers/vfio/pci/vfio_pci_dmabuf.c."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from pyvfio.abi import vfio
from pyvfio.sim.devices import SimRegion
from pyvfio.sim.process import File, UserMemory, fail

HEAD = struct.Struct("<IIII")
_RANGE = struct.Struct("<QQ")
_PAGE = 4096
_LIMIT = 1 << 64


class DmaBuf(File):
    """size bytes of a device's registers. Nothing here imports it."""

    def __init__(self, size: int) -> None:
        self.size = size


def export(regions: Mapping[int, SimRegion], user: UserMemory, offset: int) -> int:
    """A new descriptor of parts of a BAR. offset: of the request in the argument. Raises OSError as the kernel does."""
    index, _, flags, count = HEAD.unpack(user.read(HEAD.size, offset))
    if not count or flags:
        raise fail(errno.EINVAL)
    if index >= vfio.VFIO_PCI_ROM_REGION_INDEX or index not in regions:
        raise fail(errno.ENODEV)
    ranges = [*_RANGE.iter_unpack(user.read(_RANGE.size * count, offset + HEAD.size))]
    size = sum(length for _, length in ranges)
    if size >= _LIMIT // 2 or any(not length or (start | length) % _PAGE for start, length in ranges):
        raise fail(errno.EINVAL)
    for start, length in ranges:
        if start + length > _LIMIT:
            raise fail(errno.EOVERFLOW)
        if start + length > regions[index].size:
            raise fail(errno.EINVAL)
    return user.process.install(DmaBuf(size))
