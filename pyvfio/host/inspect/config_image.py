"""Config space as sysfs shows it: read without opening the device, so nothing about it changes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pyvfio.device import ConfigSpace, Region
from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel, read_bytes, text_or_empty
from pyvfio.sysfs import DEVICES

_IO, _MEMORY, _PREFETCH, _WIDE = 0x100, 0x200, 0x2000, 0x10_0000
_ROM = 6


class ConfigImage:
    """Bytes of a config space, as a region. An ordinary user gets the first 64 of the kernel only."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_register(self, offset: int, width: int) -> int:
        """width: bytes. Raises VfioError (EACCES) beyond what could be read."""
        if offset < 0 or offset + width > self.size:
            raise VfioError(
                errno.EACCES,
                "read config space",
                {"offset": offset},
                f"the kernel shows this user the first {self.size} bytes only",
                "Run it as root",
            )
        return int.from_bytes(self._data[offset : offset + width], "little")

    def read8(self, offset: int) -> int:
        return self.read_register(offset, 1)

    def read16(self, offset: int) -> int:
        return self.read_register(offset, 2)

    def read32(self, offset: int) -> int:
        return self.read_register(offset, 4)


@dataclass(frozen=True, slots=True)
class Resource:
    """A BAR, or the ROM (index 6), of size bytes. kind: "memory" or "ports"."""

    index: int
    kind: str
    size: int
    is_64bit: bool
    prefetchable: bool

    @property
    def name(self) -> str:
        return "ROM" if self.index == _ROM else f"BAR{self.index}"


def config_image(kernel: Kernel, address: str) -> ConfigSpace:
    """Raises OSError where it cannot be read. What needs more than this user may read raises VfioError when asked."""
    image = ConfigImage(read_bytes(kernel, f"{DEVICES}/{address}/config"))
    # As far as reading goes it is one.
    return ConfigSpace(cast(Region, image))


def resources(kernel: Kernel, address: str) -> Iterator[Resource]:
    """Source: Documentation/PCI/sysfs-pci.rst, "resource"; include/linux/ioport.h."""
    lines = text_or_empty(kernel, f"{DEVICES}/{address}/resource").splitlines()
    for index, line in enumerate(lines[: _ROM + 1]):
        try:
            first, last, flags = (int(number, 16) for number in line.split())
        except ValueError:
            continue
        if flags & (_IO | _MEMORY):
            kind = "ports" if flags & _IO else "memory"
            yield Resource(index, kind, last - first + 1, bool(flags & _WIDE), bool(flags & _PREFETCH))
