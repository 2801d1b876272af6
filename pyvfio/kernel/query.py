"""Info structs of VFIO that end in a chain of capabilities."""

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
    """One link: what it is and its bytes, header included, to the end of the info struct."""

    id: int
    version: int
    data: bytes

    def read(self, struct: type[S]) -> S:
        """The capability as its struct. Capabilities need not be aligned, so it is a copy."""
        return struct.from_buffer_copy(self.data)

    def read_array(self, struct: type[S], offset: int, count: int) -> list[S]:
        """count structs that begin offset bytes into the capability."""
        size = ctypes.sizeof(struct)
        return [struct.from_buffer_copy(self.data, offset + index * size) for index in range(count)]


def query(kernel: Kernel, fd: int, request: int, struct: type[S], index: int | None = None) -> tuple[S, bytes]:
    """Ask for an info struct with as much room behind it as its capabilities need: the struct, and all its bytes.

    Too little room is no error for the kernel: it answers with the size it needs.
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
    """Walk the chain that begins offset bytes into an info struct; 0 is an empty one.

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
