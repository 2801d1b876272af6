"""Config space as sysfs shows it: read without opening the device, so nothing about it changes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from pyvfio.device import ConfigSpace
from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel, read_bytes
from pyvfio.sysfs import DEVICES, resource_lines

_IO, _MEMORY, _PREFETCH, _WIDE = 0x100, 0x200, 0x2000, 0x10_0000
_ROM = 6


class ConfigImage:
    """The bytes of a config space that sysfs shows, to be read as a Region is.

    address: the function's name in sysfs. size: how many bytes there are. The kernel shows an ordinary user the first
    64 only.
    """

    def __init__(self, address: str, data: bytes) -> None:
        """data: the bytes, from offset 0 on."""
        self.address = address
        self._data = data
        self.size = len(data)

    def read_register(self, offset: int, width: int) -> int:
        """The value of width bytes at offset. Raises VfioError (EACCES) beyond the bytes that sysfs shows."""
        if offset < 0 or offset + width > self.size:
            raise VfioError(
                errno.EACCES,
                "read config space",
                {"offset": offset},
                f"the kernel shows this user the first {self.size} bytes only",
                "Run it as root",
            )
        return int.from_bytes(self._data[offset : offset + width], "little")

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Raises VfioError (EROFS): it is a copy."""
        arguments = {"offset": offset, "width": width, "value": value}
        raise VfioError(errno.EROFS, "write config space", arguments, "this is a copy, as sysfs shows it")


@dataclass(frozen=True, slots=True)
class Resource:
    """A BAR or the expansion ROM of a PCI function.

    index: the BAR's number, 6 for the ROM. kind: "memory" or "ports". size: bytes. is_64bit: whether its address may
    have 64 bits. prefetchable: whether reading it has no side effects, so that bridges may prefetch.
    """

    index: int
    kind: str
    size: int
    is_64bit: bool
    prefetchable: bool

    @property
    def name(self) -> str:
        """What it is called: "BAR0" to "BAR5", or "ROM"."""
        return "ROM" if self.index == _ROM else f"BAR{self.index}"


def config_image(kernel: Kernel, address: str) -> ConfigSpace:
    """The config space of the function at an address, as sysfs shows it. Raises OSError if it cannot be read.

    Reading a register raises VfioError (EACCES) if sysfs does not show it to this user. Nothing can be written.
    """
    return ConfigSpace(ConfigImage(address, read_bytes(kernel, f"{DEVICES}/{address}/config")))


def resources(kernel: Kernel, address: str) -> Iterator[Resource]:
    """The BARs and the ROM of a function. Source: Documentation/PCI/sysfs-pci.rst, "resource"; linux/ioport.h."""
    for index, line in enumerate(resource_lines(kernel, address)[: _ROM + 1]):
        if line is None:
            continue
        first, last, flags = line
        if flags & (_IO | _MEMORY):
            kind = "ports" if flags & _IO else "memory"
            yield Resource(index, kind, last - first + 1, bool(flags & _WIDE), bool(flags & _PREFETCH))
