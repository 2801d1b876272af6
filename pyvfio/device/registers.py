"""Registers and bitfields with names: subclass Registers, and read and write a device's registers as attributes.

class Controller(Registers):
    version = Register(0x08, 32)
    configuration = Register(0x14, 32)
    enable = Field(configuration, 0)

controller = Controller(device.region(0))
controller.enable = 1
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar, overload

from pyvfio.errors import InvalidArgument

V = TypeVar("V", bound=int)


class RegisterSpace(Protocol):
    """Where registers are: a Region, or ViommuPages. Offsets and widths are bytes."""

    def read_register(self, offset: int, width: int) -> int: ...
    def write_register(self, offset: int, width: int, value: int) -> None: ...


class Registers:
    """Registers that begin base bytes into a region. Holds no state: every access goes to the device."""

    def __init__(self, region: RegisterSpace, base: int = 0) -> None:
        self.region = region
        self.base = base

    def read_register(self, offset: int, width: int) -> int:
        """width: 8, 16, 32 or 64 bits."""
        return self.region.read_register(self.base + offset, width // 8)

    def write_register(self, offset: int, width: int, value: int) -> None:
        self.region.write_register(self.base + offset, width // 8, value)


class Register(Generic[V]):
    """A register of width bits, offset bytes from its Registers' base. kind: what its values are, an IntFlag say."""

    @overload
    def __init__(self: Register[int], offset: int, width: int) -> None: ...
    @overload
    def __init__(self, offset: int, width: int, kind: Callable[[int], V]) -> None: ...
    def __init__(self, offset: int, width: int, kind: Callable[[int], int] = int) -> None:
        self.offset = offset
        self.width = width
        self._kind = kind

    @overload
    def __get__(self, registers: None, owner: type) -> Self: ...
    @overload
    def __get__(self, registers: Registers, owner: type) -> V: ...
    def __get__(self, registers: Registers | None, owner: type) -> Self | int:
        if registers is None:
            return self
        return self._kind(registers.read_register(self.offset, self.width))

    def __set__(self, registers: Registers, value: int) -> None:
        registers.write_register(self.offset, self.width, int(value))


class Field:
    """The bits from low to high of a register, low alone if there is no high; setting it reads and writes the whole."""

    def __init__(self, register: Register[int], low: int, high: int | None = None) -> None:
        self._register = register
        self._low = low
        self._mask = (1 << (low if high is None else high) - low + 1) - 1

    @overload
    def __get__(self, registers: None, owner: type) -> Self: ...
    @overload
    def __get__(self, registers: Registers, owner: type) -> int: ...
    def __get__(self, registers: Registers | None, owner: type) -> Self | int:
        if registers is None:
            return self
        return registers.read_register(self._register.offset, self._register.width) >> self._low & self._mask

    def __set__(self, registers: Registers, value: int) -> None:
        if not 0 <= value <= self._mask:
            raise InvalidArgument(
                errno.EINVAL, "write register field", {"value": value}, f"the largest is {self._mask:#x}"
            )
        offset, width = self._register.offset, self._register.width
        rest = registers.read_register(offset, width) & ~(self._mask << self._low)
        registers.write_register(offset, width, rest | value << self._low)
