"""The commands of a client that are about its memory: what of it the device may reach, and where."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from pyvfio.dma import END, Access
from pyvfio.vfio_user import abi
from pyvfio.vfio_user.abi import vfio_user_dma_map, vfio_user_dma_unmap
from pyvfio.vfio_user.events import ServerEvents
from pyvfio.vfio_user.guest_range import FilePlace, GuestRange
from pyvfio.vfio_user.listener import DmaListener
from pyvfio.vfio_user.message import Message
from pyvfio.vfio_user.ranges import Ranges

_UNIT: Final = 4096
"""Bytes: the page size that both ends have agreed on."""
_READABLE: Final = abi.VFIO_USER_F_DMA_REGION_READ
_WRITABLE: Final = abi.VFIO_USER_F_DMA_REGION_WRITE

FileOf = Callable[[FilePlace], int]
"""The descriptor of the file that a place is in, which stays its owner's. Raises OSError if there is none."""


class MemoryCommands:
    """Carries them out. One that cannot be raises OSError with the errno for the client, and changes nothing.

    ranges: what the client has told of. most_ranges: how many there may be. refused: addresses and sizes of what the
    client believes to be mapped, and could not be.
    """

    def __init__(self, listener: DmaListener, events: ServerEvents) -> None:
        self.ranges = Ranges()
        self.most_ranges = 65535
        self.refused: dict[int, int] = {}
        self._listener = listener
        self._events = events

    def map(self, message: Message) -> tuple[bytes, list[int]]:
        """DMA_MAP: the payload of the reply, and the addresses of the ranges that it is about."""
        message.require_fds(0, 1)
        asked = message.parse(vfio_user_dma_map)
        self._check(message, asked.argsz, asked.addr, asked.size)
        access = {_READABLE: Access.READ, _WRITABLE: Access.WRITE, _READABLE | _WRITABLE: Access.READ_WRITE}
        if asked.flags not in access:
            raise message.refused(f"{asked.flags:#x} are no flags for it")
        if self.ranges.touching(asked.addr, asked.size):
            raise message.refused("some of it is mapped already", errno.EEXIST)
        if len(self.ranges) >= self.most_ranges:
            raise message.refused(f"{self.most_ranges} ranges are mapped already", errno.ENOSPC)
        fd = message.fds[0] if message.fds else None
        place = None if fd is None else _place(message, fd, asked)
        part = GuestRange(asked.addr, asked.size, access[asked.flags], place)
        self._listener.map(part, fd)
        self.ranges.add(part)
        return b"", [part.address]

    def unmap(self, message: Message) -> tuple[bytes, list[int]]:
        """DMA_UNMAP: as map(). A range may have several of those before, or none, but cuts none in two."""
        message.require_fds(0)
        asked = message.parse(vfio_user_dma_unmap)
        self._check(message, asked.argsz, asked.addr, asked.size)
        if asked.flags:
            raise message.refused(f"{asked.flags:#x} are no flags for it")
        end = asked.addr + asked.size
        parts = self.ranges.touching(asked.addr, asked.size)
        if any(part.address < asked.addr or part.end > end for part in parts):
            raise message.refused("it would cut a range in two")
        for part in parts:
            self._listener.unmap(part)
            self.ranges.remove(part.address)
        for address, size in list(self.refused.items()):
            if asked.addr <= address and address + size <= end:
                del self.refused[address]
        return message.payload, [part.address for part in parts]

    def settle(self) -> dict[int, OSError]:
        """Have the device reach what the client has told of, and nothing else; what failed, by the range's address."""
        failures = dict(self._listener.settle())
        for address, error in failures.items():
            part = next(iter(self.ranges.touching(address, 1)), None)
            if part is None:
                self._events.still_mapped(address, error)
            else:
                self.ranges.remove(part.address)
                self.refused[part.address] = part.size
                self._events.not_mapped(part, error)
        return failures

    def go_on(self, parts: Iterable[GuestRange], refused: Iterable[tuple[int, int]], files: FileOf) -> None:
        """Go on where another process stood. files: descriptors of the files that the ranges are in. Raises OSError."""
        self.refused = dict(refused)
        for part in parts:
            self._listener.map(part, None if part.place is None else files(part.place))
            self.ranges.add(part)

    def end(self) -> None:
        """The session is over, and the device has stopped."""
        for address, error in self._listener.end().items():
            self._events.still_mapped(address, error)

    def _check(self, message: Message, argsz: int, address: int, size: int) -> None:
        if argsz != len(message.payload):
            raise message.refused("its argsz is not its size")
        if not size or address + size > END:
            raise message.refused("the range is empty or its end wraps")
        if (address | size) % _UNIT:
            raise message.refused(f"the range is not in units of {_UNIT}")


def _place(message: Message, fd: int, asked: vfio_user_dma_map) -> FilePlace:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise message.refused("its descriptor is no file of memory")
    if asked.offset % _UNIT or asked.offset + asked.size > status.st_size:
        raise message.refused(f"the range is not in its file, in units of {_UNIT}")
    return FilePlace(status.st_dev, status.st_ino, asked.offset)
