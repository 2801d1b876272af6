"""Processes of a simulated machine: what each has open, and what is charged to it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from pyvfio.sim.devices.migration import MigrationFile
from pyvfio.sim.iommufd.event_queue import EventQueue
from pyvfio.sim.iommufd.main import IommufdState
from pyvfio.sim.iommufd.shared_pages import Pages
from pyvfio.sim.process.charges import Charges
from pyvfio.sim.process.user import fail
from pyvfio.sim.vfio.cdev import CdevState
from pyvfio.sim.vfio.container import ContainerState
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.dma_buf import DmaBuf
from pyvfio.sim.vfio.group import GroupState
from pyvfio.sim.vfio.noiommu import Pagemap


@dataclass(slots=True)
class Text:
    """A file of text; path: writing to it is an action."""

    path: str
    content: bytes
    position: int = 0


@dataclass(slots=True)
class Window:
    """Where a device's registers are mapped, and from which of their offsets on."""

    start: int
    size: int
    device: DeviceState
    region: int
    offset: int


File = (
    Text
    | ContainerState
    | GroupState
    | DeviceState
    | MigrationFile
    | IommufdState
    | CdevState
    | DmaBuf
    | EventQueue
    | Pagemap
)


@dataclass(eq=False, slots=True)
class OpenFile:
    """What open() made. descriptors: how many there are of it, in all processes."""

    file: File
    descriptors: int = 1


@dataclass(eq=False, slots=True)
class Process:
    """files: by descriptor. windows: where it has mapped registers; pages: those of an iommufd, by their address.

    raw_io: whether it has CAP_SYS_RAWIO. others: all processes of the machine, this one too: the numbers of
    their descriptors are the running kernel's, and so differ. Its memory is the PageTracker's to know.
    """

    charges: Charges
    raw_io: bool = True
    files: dict[int, OpenFile] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    pages: dict[int, tuple[IommufdState, Pages]] = field(default_factory=dict)
    others: list[Process] = field(default_factory=list)
    has_ended: bool = False

    def __post_init__(self) -> None:
        self.others.append(self)

    def require_raw_io(self) -> None:
        """What has to do with devices without an IOMMU takes CAP_SYS_RAWIO. Raises OSError(EPERM)."""
        if not self.raw_io:
            raise fail(errno.EPERM)

    def file(self, fd: int) -> File | None:
        """None for a descriptor that is none of the simulation's. Raises OSError(EBADF) for another process's."""
        opened = self.files.get(fd)
        if opened is None and any(fd in other.files for other in self.others):
            raise fail(errno.EBADF)
        return None if opened is None else opened.file

    def install(self, file: File, fd: int | None = None) -> int:
        """A descriptor of a file that has just been opened; fd: one of the running kernel's that it is to have."""
        if fd is None:
            fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.files[fd] = OpenFile(file)
        return fd

    def share(self, fd: int, opened: OpenFile) -> None:
        """fd is one descriptor more of it."""
        opened.descriptors += 1
        self.files[fd] = opened

    def forget(self, fd: int) -> int:
        """A descriptor is closed: how many others there are of what it was of."""
        opened = self.files.pop(fd)
        opened.descriptors -= 1
        return opened.descriptors

    def device(self, fd: int) -> DeviceState | None:
        """The device a descriptor is of. Raises OSError(EINVAL) for one that is not bound yet."""
        file = self.file(fd)
        return file.device if isinstance(file, CdevState) else file if isinstance(file, DeviceState) else None

    def container_of(self, fd: int) -> ContainerState | IommufdState | None:
        """What a descriptor is of, None if of no container. Raises OSError(EBADF)."""
        file = self.file(fd)
        if file is None:
            os.fstat(fd)
        return file if isinstance(file, ContainerState | IommufdState) else None

    def iommufd_of(self, fd: int) -> IommufdState:
        """Raises OSError(EBADF) for no descriptor, OSError(EBADFD) for one of something else."""
        file = self.container_of(fd)
        if not isinstance(file, IommufdState):
            raise fail(errno.EBADFD)
        return file

    def group_of(self, fd: int) -> GroupState:
        """Whose descriptor it is. Raises OSError: EBADF, EINVAL if no group's."""
        file = self.file(fd)
        if file is None:
            os.fstat(fd)
        if not isinstance(file, GroupState):
            raise fail(errno.EINVAL)
        return file

    def window(self, address: int) -> Window | None:
        """Where a device's registers are mapped at an address, which are not memory."""
        return next((window for window in self.windows if window.start <= address < window.start + window.size), None)
