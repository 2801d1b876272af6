"""Processes of a simulated machine: what each has open and mapped, and what is charged to it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pyvfio.sim.process.area import VmArea
from pyvfio.sim.process.charges import Charges
from pyvfio.sim.process.failure import fail


class Opened(Protocol):
    """All that a process knows of a file that it has open. What the file can do is File's to say."""

    def descriptor(self) -> int:
        """A new descriptor of the running kernel's, which stands for the file in poll()."""

    def release(self) -> None:
        """The last descriptor is closed."""


F = TypeVar("F", bound=Opened)


@dataclass(eq=False, slots=True)
class OpenFile:
    """What open() made. descriptors: how many there are of it, in all processes."""

    file: Opened
    descriptors: int = 1


@dataclass(eq=False, slots=True)
class Process:
    """files: by descriptor. areas: what it has mapped of simulated files, by address.

    mlocked: the numbers of the pages that it has locked through the simulated kernel.
    raw_io: whether it has CAP_SYS_RAWIO. others: all processes of the machine, this one too: the numbers of their
    descriptors are the running kernel's, and so differ. PageTracker knows the rest of its memory.
    """

    charges: Charges
    raw_io: bool = True
    files: dict[int, OpenFile] = field(default_factory=dict)
    areas: dict[int, VmArea] = field(default_factory=dict)
    mlocked: set[int] = field(default_factory=set)
    others: list[Process] = field(default_factory=list)
    has_ended: bool = False

    def __post_init__(self) -> None:
        self.others.append(self)

    @property
    def mlocked_elsewhere(self) -> set[int]:
        """The pages that only other processes have locked, of memory that is all in the running process."""
        return set().union(*(other.mlocked for other in self.others if other is not self)) - self.mlocked

    def require_raw_io(self) -> None:
        """Whatever concerns devices without an IOMMU takes CAP_SYS_RAWIO. Raises OSError(EPERM)."""
        if not self.raw_io:
            raise fail(errno.EPERM)

    def file(self, fd: int, kind: type[F]) -> F | None:
        """The file of a descriptor. None for one of another kind, and for one of the running kernel's.

        Raises OSError(EBADF) for a descriptor of another process.
        """
        opened = self.files.get(fd)
        if opened is None:
            if any(fd in other.files for other in self.others):
                raise fail(errno.EBADF)
            return None
        return opened.file if isinstance(opened.file, kind) else None

    def passed_file(self, fd: int, kind: type[F]) -> F | None:
        """As file(), for a descriptor that stands in an argument. Raises OSError(EBADF) if there is none."""
        found = self.file(fd, kind)
        if found is None and fd not in self.files:
            os.fstat(fd)
        return found

    def install(self, file: Opened) -> int:
        """The first descriptor of a file that has just been opened."""
        fd = file.descriptor()
        self.files[fd] = OpenFile(file)
        return fd

    def share(self, fd: int, opened: OpenFile) -> None:
        """fd is one more descriptor of it."""
        opened.descriptors += 1
        self.files[fd] = opened

    def forget(self, fd: int) -> None:
        """A descriptor is closed; with the last one its file is released."""
        opened = self.files.pop(fd)
        opened.descriptors -= 1
        if not opened.descriptors:
            opened.file.release()

    def area(self, address: int) -> tuple[VmArea, int] | None:
        """What the process has mapped of a simulated file at an address, and the offset of the address in it."""
        for start, area in self.areas.items():
            if start <= address < start + area.size:
                return area, address - start
        return None

    def has_registers_at(self, address: int) -> bool:
        """Whether a device's registers are mapped there, which are not memory."""
        found = self.area(address)
        return found is not None and found[0].registers is not None
