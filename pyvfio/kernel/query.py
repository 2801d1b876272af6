"""The info structs of VFIO that end in a chain of capabilities."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pyvfio.abi.vfio import vfio_info_cap_header
from pyvfio.errors import VfioError
from pyvfio.kernel.seam import Kernel

S = TypeVar("S", bound=ctypes.Structure)

_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Capability:
    """One capability of a chain.

    id: what it is, in the numbers of its info struct. version: of its struct. data: its bytes from its header to the
    end of the info struct.
    """

    id: int
    version: int
    data: bytes

    def read(self, struct: type[S]) -> S:
        """A copy of the capability as its struct. Raises VfioError (EIO) if it is shorter than that."""
        (copy,) = self.read_array(struct, 0, 1)
        return copy

    def read_array(self, struct: type[S], offset: int, count: int) -> list[S]:
        """Copies of count structs that begin offset bytes into the capability.

        Raises VfioError (EIO) if it is shorter.
        """
        size = ctypes.sizeof(struct)
        if offset + count * size > len(self.data):
            arguments = {"id": self.id, "size": len(self.data)}
            raise VfioError(errno.EIO, "capability", arguments, f"the kernel has told a part of {struct.__name__}")
        return [struct.from_buffer_copy(self.data, offset + index * size) for index in range(count)]


def query(kernel: Kernel, fd: int, request: int, struct: type[S], index: int | None = None) -> tuple[S, bytes]:
    """Ask for an info struct with room behind it for its capabilities; return the struct, and all bytes of the answer.

    index: the struct's field of that name, if it has one. The kernel takes too little room for no error: it answers
    with the size that it needs, and is asked again. Raises OSError as the kernel does, VfioError for a size that cannot
    be.
    """
    size = ctypes.sizeof(struct)
    while size <= _LARGEST:
        buffer = ctypes.create_string_buffer(size)
        info = struct.from_buffer(buffer)
        info.argsz = size
        if index is not None:
            info.index = index
        kernel.ioctl(fd, request, buffer)
        if info.argsz <= size:
            return info, buffer.raw
        size = info.argsz
    raise VfioError(errno.E2BIG, struct.__name__, {"argsz": size}, "the kernel asks for an absurd size")


def chain(data: bytes, offset: int) -> Iterator[Capability]:
    """The capabilities of the chain that begins offset bytes into data, an info struct; none if offset is 0.

    Raises VfioError for a chain that leaves the struct or runs in a circle.
    """
    seen = set()
    while offset:
        if offset in seen or offset + ctypes.sizeof(vfio_info_cap_header) > len(data):
            raise VfioError(errno.EIO, "capability chain", {"offset": offset}, "it leaves its struct or is a circle")
        seen.add(offset)
        header = vfio_info_cap_header.from_buffer_copy(data, offset)
        yield Capability(header.id, header.version, data[offset:])
        offset = header.next
