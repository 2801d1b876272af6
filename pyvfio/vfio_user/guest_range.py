"""GuestRange: a part of a client's memory, as it tells of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from pyvfio.dma import Access


@dataclass(frozen=True, slots=True, order=True)
class FilePlace:
    """A place in a file. device, inode: of the file, as fstat(2) has them. offset: bytes from its beginning."""

    device: int
    inode: int
    offset: int

    @classmethod
    def of(cls, fd: int, offset: int) -> FilePlace:
        """The place at offset of the file that fd is of. Raises OSError."""
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino, offset)


@dataclass(frozen=True, slots=True)
class GuestRange:
    """Memory that a client lets its device reach.

    address: where the device sees it. size: bytes. access: what the device may do with it. place: where it is in a file
    that the client has shared; None if it has not: registers of another device, or a ROM.
    """

    address: int
    size: int
    access: Access
    place: FilePlace | None

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.address + self.size

    def part(self, start: int, end: int) -> GuestRange:
        """What of it lies from the address start up to end, both inside."""
        place = self.place and replace(self.place, offset=self.place.offset + start - self.address)
        return GuestRange(start, end - start, self.access, place)
