"""Registers of a device as a dma-buf. Source: drivers/vfio/pci/vfio_pci_dmabuf.c."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.sim.devices import Model
from pyvfio.sim.process import RegisterFile, UserMemory, fail

HEAD = struct.Struct("<IIII")
_RANGE = struct.Struct("<QQ")
_PAGE = 4096
_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of a BAR, one behind the other. ranges: offset in the BAR and size of each."""

    model: Model
    region: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def answers(self) -> bool:
        return self.model.config.answers_memory

    @property
    def silences(self) -> int:
        return self.model.config.silences

    def load(self, offset: int, width: int) -> int:
        return self.model.load(self.region, self._place(offset), width)

    def store(self, offset: int, width: int, value: int) -> None:
        self.model.store(self.region, self._place(offset), width, value)

    def _place(self, offset: int) -> int:
        for start, size in self.ranges:
            if offset < size:
                return start + offset
            offset -= size
        raise ValueError("beyond the dma-buf")


def export(model: Model, user: UserMemory, offset: int) -> int:
    """A new descriptor of parts of a BAR. offset: of the request in the argument. Raises OSError as the kernel does."""
    index, _, flags, count = HEAD.unpack(user.read(HEAD.size, offset))
    if not count or flags:
        raise fail(errno.EINVAL)
    if index >= vfio.VFIO_PCI_ROM_REGION_INDEX or index not in model.regions:
        raise fail(errno.ENODEV)
    ranges = tuple(_RANGE.iter_unpack(user.read(_RANGE.size * count, offset + HEAD.size)))
    size = sum(length for _, length in ranges)
    if size >= _LIMIT // 2 or any(not length or (start | length) % _PAGE for start, length in ranges):
        raise fail(errno.EINVAL)
    for start, length in ranges:
        if start + length > _LIMIT:
            raise fail(errno.EOVERFLOW)
        if start + length > model.regions[index].size:
            raise fail(errno.EINVAL)
    return user.process.install(RegisterFile(size, _Parts(model, index, ranges)))
