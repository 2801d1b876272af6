"""Registers: the registers and bit fields of a device as attributes of a class. Subclass it and name them:

class Controller(Registers):
    version = Register(0x08, 32)
    configuration = Register(0x14, 32)
    enable = Field(configuration, 0)

controller = Controller(device.region(0))
controller.enable = 1
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, overload

from pyvfio.errors import InvalidArgument

V = TypeVar("V", bound=int)


class RegisterSpace(Protocol):
    """Where registers are: a Region, or ViommuPages."""

    def read_register(self, offset: int, width: int) -> int:
        """Read the register of width bytes at offset, in bytes."""

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Write the register of width bytes at offset, in bytes."""


class Registers:
    """Registers of a region. Holds no state: each access to an attribute is an access to the device.

    region: where the registers are. base: where they begin in it, in bytes.

    Setting a name that the class has not is an AttributeError that says which one is like it, and writes nothing. A
    subclass that keeps something of its own annotates it in the class, or gives it a name with an underscore in front.
    """

    region: RegisterSpace
    base: int

    def __init__(self, region: RegisterSpace, base: int = 0) -> None:
        """Does not access the device."""
        self.region = region
        self.base = base

    # Hidden from type checkers, which would take it to allow every name.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            kind = type(self)
            if not (hasattr(kind, name) or name.startswith("_") or _is_annotated(kind, name)):
                alike = difflib.get_close_matches(name, [known for known in dir(kind) if known[0] != "_"], 1)
                advice = f"; did you mean {alike[0]}?" if alike else ""
                raise AttributeError(f"{kind.__name__} has no register or field {name}{advice}")
            super().__setattr__(name, value)

    def read_register(self, offset: int, width: int) -> int:
        """Read the register of width bits (8, 16, 32 or 64), offset bytes after base."""
        return self.region.read_register(self.base + offset, width // 8)

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Write the register of width bits (8, 16, 32 or 64), offset bytes after base."""
        self.region.write_register(self.base + offset, width // 8, value)


def _is_annotated(kind: type, name: str) -> bool:
    return any(name in getattr(base, "__annotations__", {}) for base in kind.__mro__)


class Register(Generic[V]):
    """An attribute of Registers that is a register.

    offset: bytes from the base of the Registers. width: bits: 8, 16, 32 or 64. kind: the type of its values, for
    example an IntFlag; int if none is given.
    """

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
    """An attribute of Registers that is some bits of a register: those from low to high, or the bit low alone.

    Setting it reads the register and writes it. It raises InvalidArgument for a value with more bits.
    """

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
