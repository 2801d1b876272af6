"""MapCall: the ioctl that maps, made once for each mapping of a run, and how far it has come."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Generator
from itertools import repeat

from pyvfio.dma.address_space import MappedRun
from pyvfio.kernel import Kernel


class MapCall:
    """The calls that map a run, in ascending order, each with the same argument but for three fields.

    run: what is mapped. made: how many calls the kernel has answered with success, at any moment.
    """

    def __init__(
        self, run: MappedRun, fd: int, request: int, argument: ctypes.Structure, source: str, first: int, size: str
    ) -> None:
        """fd, request, argument: what ioctl is called with. The fields of argument, each of 64 bits: iova; source, the
        name of the one that tells at which address of this process, or at which offset of a file, a mapping begins, and
        first, what it is for the first byte of run; size, the name of the one with the bytes of a mapping."""
        self.run = run
        self._fd = fd
        self._request = request
        self._argument = argument
        self._iova = _field(argument, "iova")
        self._source = _field(argument, source)
        self._size = _field(argument, size)
        self._answers: list[int] = []
        self._arguments = self._each(first - run.iova)

    @property
    def made(self) -> int:
        """How many calls the kernel has answered with success."""
        return len(self._answers)

    @property
    def is_open(self) -> bool:
        """Whether an exception came out of a call, so that this last one is not among those made."""
        return inspect.getgeneratorstate(self._arguments) == inspect.GEN_SUSPENDED

    def make(self, kernel: Kernel) -> None:
        """Make the calls. Raises OSError as the kernel does.

        The loop is the interpreter's own, in C: no signal handler runs between a call and its place among the answers.
        It runs in the generator, before a call, or in the call itself.
        """
        self._answers.extend(map(kernel.ioctl, repeat(self._fd), repeat(self._request), self._arguments))

    def _each(self, distance: int) -> Generator[ctypes.Structure, None, None]:
        """The argument, for each mapping. It is what plugging memory costs beyond the kernel's work."""
        argument, iova_field, source_field = self._argument, self._iova, self._source
        for part in self.run.parts():
            self._size.value = part.step
            for iova in part:
                iova_field.value = iova
                source_field.value = iova + distance
                yield argument


def _field(argument: ctypes.Structure, name: str) -> ctypes.c_uint64:
    """A field of 64 bits, which can be set without looking it up by name each time."""
    return ctypes.c_uint64.from_buffer(argument, getattr(type(argument), name).offset)
