"""MapCall: the ioctl that maps, made once for each mapping of a run, and how far it has come."""

from __future__ import annotations

import ctypes
import errno
import inspect
from collections.abc import Generator
from itertools import repeat

from pyvfio.dma.address_space import MappedRun
from pyvfio.kernel import Kernel

# What memory is refused with that has to be mapped in another way. Source: mm/gup.c, memfd_pin_folios, which takes
# files of shmem and hugetlbfs only; drivers/iommu/iommufd/io_pagetable.c, iopt_map_file_pages.
_NOT_THIS_WAY = (errno.EINVAL, errno.EOPNOTSUPP)


class MapCall:
    """The calls that map a run, in ascending order, each with the same argument but for three fields.

    Where the kernel refuses the first one because of what the memory is, there may be another way to map it.

    run: what is mapped. made: how many calls the kernel has answered with success, at any moment.
    """

    def __init__(
        self,
        run: MappedRun,
        fd: int,
        request: int,
        argument: ctypes.Structure,
        source: str,
        first: int,
        size: str,
        *,
        otherwise: MapCall | None = None,
    ) -> None:
        """fd, request, argument: what ioctl is called with. The fields of argument, each of 64 bits: iova; source, the
        name of the one that tells at which address of this process, or at which offset of a file, a mapping begins, and
        first, what it is for the first byte of run; size, the name of the one with the bytes of a mapping. otherwise:
        the calls to make in place of these if the kernel takes no such memory this way; None for none."""
        self.run = run
        self._fd = fd
        self._request = request
        self._argument = argument
        self._iova = _field(argument, "iova")
        self._source = _field(argument, source)
        self._size = _field(argument, size)
        self._otherwise = otherwise
        self._answers: list[int] = []
        self._arguments = self._each(first - run.iova)

    @property
    def made(self) -> int:
        """How many calls the kernel has answered with success."""
        return len(self._answers)

    @property
    def iova(self) -> int:
        """The address in the argument: after a call that lets the kernel choose, the one that it has chosen."""
        return self._iova.value

    @property
    def is_open(self) -> bool:
        """Whether an exception came out of a call, so that this last one is not among those made."""
        return inspect.getgeneratorstate(self._arguments) == inspect.GEN_SUSPENDED

    def make(self, kernel: Kernel) -> None:
        """Make the calls. Raises OSError as the kernel does.

        The loop is the interpreter's own, in C: no signal handler runs between a call and its place among the answers.
        It runs in the generator, before a call, or in the call itself.
        """
        try:
            self._answers.extend(map(kernel.ioctl, repeat(self._fd), repeat(self._request), self._arguments))
        except OSError as error:
            other = self._otherwise
            if other is None or self._answers or error.errno not in _NOT_THIS_WAY:
                raise
            # What they have in common is how far they have come: not at all.
            self._otherwise, self._request = None, other._request
            self._iova, self._arguments = other._iova, other._arguments
            self.make(kernel)

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
