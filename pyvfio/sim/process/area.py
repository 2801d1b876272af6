"""What mmap() of a file puts into a program's memory. Source: linux/mm.h, vm_operations_struct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Registers(Protocol):
    """Registers of a device that a program has mapped. offset: bytes from where the mapping begins."""

    @property
    def answers(self) -> bool:
        """Whether the device decodes memory."""

    @property
    def silences(self) -> int:
        """How often the device has stopped to decode memory, by a reset too."""

    def load(self, offset: int, width: int) -> int: ...
    def store(self, offset: int, width: int, value: int) -> None: ...


def _nothing() -> None:
    """Closing has no effect."""


@dataclass(frozen=True, slots=True)
class VmArea:
    """size bytes. registers: what answers each access; None: it is memory, pages of a file of the running kernel.

    pages: a descriptor of that file, which is mapped from its beginning. close: called when the program unmaps it.
    """

    size: int
    registers: Registers | None = None
    pages: int = -1
    close: Callable[[], None] = _nothing
