"""A program's window onto registers that answer each access."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from pyvfio.kernel import WindowReleased
from pyvfio.sim.process.area import Registers


class FatalSignal(Exception):
    """A program has made an access for which Linux ends it. signal: the one that does.

    SIGBUS: the registers are mapped and do not answer. SIGSEGV: nothing is mapped there.
    """

    def __init__(self, number: signal.Signals, reason: str) -> None:
        super().__init__(f"{number.name}: {reason}")
        self.signal = number


@dataclass(eq=False, slots=True)
class RegisterWindow:
    """A Window onto a device. start: where it begins in registers. lock: held for an access. is_mapped: whether the
    program has the registers mapped still."""

    lock: AbstractContextManager[object]
    registers: Registers
    start: int
    length: int
    is_mapped: Callable[[], bool]
    released: bool = False
    views: Mapping[int, memoryview[int]] = field(default_factory=dict)

    def load(self, offset: int, width: int) -> int:
        with self.lock:
            self._check(offset, width)
            return self.registers.load(self.start + offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        with self.lock:
            self._check(offset, width)
            self.registers.store(self.start + offset, width, value)

    def release(self) -> None:
        with self.lock:
            self.released = True

    def _check(self, offset: int, width: int) -> None:
        if self.released:
            raise WindowReleased
        if not 0 <= offset <= self.length - width:
            raise IndexError(offset)
        if not self.is_mapped():
            raise FatalSignal(signal.SIGSEGV, "the registers are not mapped any more")
