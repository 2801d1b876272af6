"""Window: registers that are mapped into this process, or memory that others read and write at the same time."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_PYBUF_READ, _PYBUF_WRITE = 0x100, 0x200
_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_view.restype = ctypes.py_object


class WindowReleased(Exception):
    """The window was released before the access, which has not been made."""


class Window(Protocol):
    """Mapped registers or shared memory as numbers: each access is one load or one store of exactly its width.

    offset: bytes from where the window begins, a multiple of width. width: bytes: 1, 2, 4 or 8. value: little endian,
    as PCI and virtio define it, whatever the processor is. An access after release() raises WindowReleased, in
    whichever thread it is made, and touches nothing.
    """

    @property
    def views(self) -> Mapping[int, memoryview[int]]:
        """By width, the window as numbers of that width in the processor's order, for whoever counts nanoseconds:
        indexing one is an access, and raises ValueError after release(). A width for which load() and store() do
        more has none; memory has one of bytes."""

    @property
    def released(self) -> bool:
        """Whether release() has been called."""

    def load(self, offset: int, width: int) -> int:
        """Read the number at offset."""

    def store(self, offset: int, width: int, value: int) -> None:
        """Write the number at offset. value fits into width bytes."""

    def release(self) -> None:
        """Let no access be made from now on, so that the memory can be unmapped. No access is under way when this
        returns. Releasing twice is harmless."""


class LinuxWindow:
    """A Window of memory that is mapped here. It belongs to the process that made it: in a forked child it is released.

    An access is one item of a cast memoryview, and so one load or store of a C function that copies a number of a
    fixed width (Objects/memoryobject.c, unpack_single and pack_single), under the interpreter's lock: release() cannot
    come in between. A ctypes value will not do: its setter reads before it writes (Modules/_ctypes/cfield.c).
    """

    __slots__ = ("__weakref__", "_is_swapped", "_native", "released", "views")

    def __init__(self, address: int, length: int, *, writable: bool = True, byteorder: str = sys.byteorder) -> None:
        """length: bytes that are mapped at address, which is a multiple of 8. byteorder: the processor's."""
        self._is_swapped = byteorder == "big"
        self.released = False
        self._native: dict[int, memoryview[int]] = {}
        memory: memoryview[int] = _memory_view(address, length, _PYBUF_WRITE if writable else _PYBUF_READ)
        with memory:
            for width, letter in _FORMATS.items():
                with memory[: length // width * width] as whole:
                    self._native[width] = whole.cast(letter)  # type: ignore[call-overload]
        self.views = MappingProxyType({1: self._native[1]} if self._is_swapped else self._native)
        _windows.add(self)

    def load(self, offset: int, width: int) -> int:
        try:
            value = self._native[width][offset // width]
        except ValueError:
            raise WindowReleased from None
        return swapped(value, width) if self._is_swapped else value

    def store(self, offset: int, width: int, value: int) -> None:
        if self._is_swapped:
            value = swapped(value, width)
        try:
            self._native[width][offset // width] = value
        except ValueError:
            if self.released:
                raise WindowReleased from None
            raise

    def release(self) -> None:
        self.released = True
        for view in self._native.values():
            view.release()


def swapped(value: int, width: int) -> int:
    """A number of width bytes with its bytes in the other order."""
    return int.from_bytes(value.to_bytes(width, "little"), "big")


_windows: weakref.WeakSet[LinuxWindow] = weakref.WeakSet()


def _release_all() -> None:
    for window in list(_windows):
        window.release()


os.register_at_fork(after_in_child=_release_all)
