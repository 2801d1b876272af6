"""Where a step runs: a machine, the descriptors a case has open by name, and memory to map and to pass arguments in."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pyvfio.abi import vfio
from tests.conformance.child import Child
from tests.conformance.machine import Machine
from tests.conformance.step import Reply

PAGE = 4096
ARENA = 4 * PAGE


@dataclass(frozen=True, slots=True)
class State:
    """left: mappings the container can still take, None before SET_IOMMU. locked: VmLck, pinned: VmPin, in pages."""

    left: int | None
    locked: int
    pinned: int


class Bench:
    """Open for one case at a time: close() ends what it opened and gives the machine its settings back."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.fds: dict[str, int] = {}
        self.mapped: dict[str, tuple[int, int]] = {}
        self.saved = b""
        """A device's state, on its way from one stream to another."""
        self.places = dict(machine.memory.places)
        self.children: dict[str, Child] = {}
        self.before: State | None = None
        """After the step that came before, and so before the next."""
        self._arena = machine.memory.arena
        self._undo: list[Callable[[], object]] = []

    def close(self) -> int:
        """The pages that stay charged to the process, which should be none."""
        for child in self.children.values():
            child.end()
        for fd in self.fds.values():
            self.kernel.close(fd)
        for address, size in self.mapped.values():
            self.kernel.munmap(address, size)
        for undo in reversed(self._undo):
            undo()
        self.children, self.fds, self.mapped, self._undo = {}, {}, {}, []
        state = self.state()
        return state.locked + state.pinned

    def on(self, machine: Machine) -> Bench:
        """The same memory, and nothing open, in another process."""
        other = Bench(machine)
        other.places = dict(self.places)
        return other

    def undo_at_end(self, action: Callable[[], object]) -> None:
        self._undo.append(action)

    def state(self) -> State:
        left = None
        if (fd := self.fds.get("container")) is not None:
            info = vfio.vfio_iommu_type1_info()
            buffer = ctypes.create_string_buffer(bytes(info), 1024)
            struct.pack_into("<I", buffer, 0, 1024)
            try:
                self.kernel.ioctl(fd, vfio.VFIO_IOMMU_GET_INFO, buffer)
            except OSError:
                pass
            else:
                left = _dma_avail(buffer.raw)
        locked, pinned = self.machine.charged()
        return State(left, locked // PAGE, pinned // PAGE)

    def address(self, memory: str, offset: int) -> int:
        """Of the machine's memory of that name."""
        return self.places[memory] + offset

    def ioctl(
        self,
        fd: str,
        request: int,
        argument: ctypes.Structure | int = 0,
        data: bytes = b"",
        *,
        reach: int | None = None,
    ) -> Reply:
        """One ioctl on the descriptor of that name. An int goes by value, a struct by pointer, with data behind it.

        reach: how many bytes from the pointer on are there at all; None for enough of them.
        """
        if isinstance(argument, int):
            return self.attempt(lambda: self.kernel.ioctl(self.fds[fd], request, argument))
        content = bytes(argument) + data
        pointer = self.argument(content, reach)
        reply = self.attempt(lambda: self.kernel.ioctl(self.fds[fd], request, pointer))
        size = len(content) if reach is None else min(reach, len(content))
        written = ctypes.string_at(ctypes.addressof(pointer), size).ljust(len(content), b"\0")
        out = _fields(type(argument).from_buffer_copy(written))
        if data:
            out["data"] = written[ctypes.sizeof(argument) :].hex()
        return Reply(reply.error, reply.value, out)

    def argument(self, content: bytes, reach: int | None = None) -> ctypes.Array[ctypes.c_char]:
        """A pointer to the content. The array is of no size the kernel knows; it only carries the address."""
        address = self._arena if reach is None else self._arena + ARENA - reach
        there = content if reach is None else content[:reach]
        ctypes.memmove(address, there, len(there))
        return (ctypes.c_char * ARENA).from_address(address)

    def attempt(self, function: Callable[[], int]) -> Reply:
        try:
            return Reply(value=function())
        except OSError as error:
            return Reply(errno.errorcode.get(error.errno or 0, str(error.errno)))

    def open(self, name: str, function: Callable[[], int]) -> Reply:
        """function opens a descriptor: it goes by name from now on, and its number is nobody's business."""
        reply = self.attempt(function)
        if reply.error is None:
            self.fds[name] = reply.value
            reply = Reply()
        return reply


def _fields(argument: ctypes.Structure) -> dict[str, object]:
    """What a struct holds, without addresses of this process."""
    out: dict[str, object] = {}
    for name, *_ in argument._fields_:
        value = getattr(argument, name)
        if name in ("vaddr", "data_ptr") or name.startswith("_"):
            continue
        if isinstance(value, ctypes.Structure):
            out |= {f"{name}.{inner}": each for inner, each in _fields(value).items() if inner != "data"}
        elif not isinstance(value, ctypes.Array):
            out[name] = value
    return out


def _dma_avail(info: bytes) -> int | None:
    position: int = struct.unpack_from("<I", info, 16)[0]
    while position:
        number, _, following = struct.unpack_from("<HHI", info, position)
        if number == vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
            return int(struct.unpack_from("<I", info, position + 8)[0])
        position = following
    return None
