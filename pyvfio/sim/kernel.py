"""SimKernel: answers pyvfio's system calls as Linux would."""

from __future__ import annotations

import copy
import errno
import os
import re
import threading
from collections.abc import Sequence
from typing import Self

from pyvfio.abi import mman
from pyvfio.kernel import IoctlArgument, LinuxKernel
from pyvfio.noiommu import TAINTED
from pyvfio.sim.devices.migration import MigrationFile
from pyvfio.sim.iommu import Span, iommu_model
from pyvfio.sim.iommufd.event_queue import EventQueue
from pyvfio.sim.iommufd.main import IommufdState
from pyvfio.sim.mm.pages import PageTracker
from pyvfio.sim.mm.pinning import Pinning
from pyvfio.sim.process.charges import Charges
from pyvfio.sim.process.process import File, Process, Text, Window
from pyvfio.sim.process.user import UserMemory, fail
from pyvfio.sim.procfs import limits, locked_by_program, status
from pyvfio.sim.sysfs import VFIO_DRIVER, PciFunction, Sysfs
from pyvfio.sim.vfio.cdev import CdevState
from pyvfio.sim.vfio.container import ContainerState
from pyvfio.sim.vfio.device import DeviceState, DmaFault
from pyvfio.sim.vfio.group import GroupState
from pyvfio.sim.vfio.noiommu import Pagemap
from pyvfio.sim.vfio.ownership import Ownership

_PAGE = 4096


class SimKernel:
    """A machine of PCI functions behind an IOMMU. A Kernel; safe from several threads.

    edu_devices: how many there are, from 0000:00:03.0 up, each in a group of its own, bound to vfio-pci; add() puts any
    other function in. version: which Linux it answers like. iommu: "intel", "amd", "virtio" or "none"; iova_ranges:
    other usable addresses, first and last of each; remaps_interrupts: whether it can, if not as the model does.
    memlock: RLIMIT_MEMLOCK in bytes, tested unless ipc_lock; what the process has locked by itself counts too.
    dma_entry_limit: as the module's.
    populate_on_pin: mapping takes real pages as Linux does; without, a region larger than the host can be mapped.
    host_huge_pages: hugetlb memory comes from the host's pool; without, ordinary pages stand in for it. iommufd: there
    are /dev/iommu and, from 6.6 on, nodes of devices; iommufd_container: and it provides /dev/vfio/vfio.
    iommu_tracks_dirty: the IOMMU notes which pages devices write. iommufd_test: it has iommufd's test devices
    (CONFIG_IOMMUFD_TEST), of Linux 7.3 in every version: pyvfio.drivers.iommufd_mock.
    Descriptors and memory are real; what is not VFIO's is done by the running kernel.
    """

    def __init__(
        self,
        *,
        edu_devices: int = 0,
        version: tuple[int, int] = (6, 12),
        iommu: str = "intel",
        iova_ranges: Sequence[Span] | None = None,
        remaps_interrupts: bool | None = None,
        memlock: int | None = None,
        ipc_lock: bool = True,
        dma_entry_limit: int = 65535,
        populate_on_pin: bool = True,
        host_huge_pages: bool = True,
        iommufd: bool = True,
        iommufd_container: bool = False,
        iommu_tracks_dirty: bool = False,
        iommufd_test: bool = False,
    ) -> None:
        self.version = version
        self.iommu = iommu
        self.iommu_model = iommu_model(iommu, version)
        self.iova_ranges = tuple(iova_ranges or self.iommu_model.usable)
        self.page_sizes = self.iommu_model.page_sizes
        self.remaps_interrupts = self.iommu_model.remaps_interrupts if remaps_interrupts is None else remaps_interrupts
        self._real = LinuxKernel()
        self.process = Process(Charges(memlock, ipc_lock, lambda: locked_by_program(self._real)))
        self.iommu_tracks_dirty = iommu_tracks_dirty
        self.iommufd_test = iommufd_test
        self.dma_faults: list[DmaFault] = []
        self.functions: dict[str, PciFunction] = {}
        self._has_iommufd = iommufd and version >= (6, 2)
        self._iommufd_container = iommufd_container
        self.sysfs = Sysfs(
            self.functions,
            dma_entry_limit,
            cdev=self._has_iommufd and version >= (6, 6),
            noiommu_cdev=self._has_iommufd and version >= (7, 3),
            iommu=iommu != "none",
        )
        self.ownership = Ownership(self)
        self._host_huge_pages = host_huge_pages
        self._pages = PageTracker(self._real, populate_on_pin=populate_on_pin)
        self.pinning = Pinning(self._pages, version)
        self._lock = threading.RLock()
        for number in range(3, 3 + edu_devices):
            self.add(PciFunction(f"0000:00:{number:02x}.0", group=number, driver=VFIO_DRIVER))

    def spawn(self) -> Self:
        """Another process on the same machine: a Kernel with descriptors and memory of its own, none at first.

        Memory that one has mapped is not there for the other; a file that is passed on, each may map. Its limit, and
        whether it has CAP_IPC_LOCK, are those of this process and go their own ways from here: charges. What it locks
        with mlock() counts for this one.
        """
        other = copy.copy(self)
        charges = Charges(self.charges.limit, self.charges.exempt, lambda: 0, user=self.charges.user)
        other.process = Process(charges, self.process.raw_io, others=self.process.others)
        return other

    def send(self, fd: int, other: SimKernel) -> int:
        """Pass a descriptor on to another process, as fork() and SCM_RIGHTS do: its number there."""
        with self._lock:
            return self._duplicate(fd, other.process)

    def exit(self) -> None:
        """The process ends: its descriptors are closed and its memory is gone, except for what devices have pinned."""
        with self._lock:
            for fd in list(self.process.files):
                self.close(fd)
            for start, size in self._pages.areas_of(self.process):
                self.munmap(start, size)
            for start, (_, pages) in list(self.process.pages.items()):
                self.munmap(start, pages.size)
            self.process.has_ended = True

    def add(self, function: PciFunction) -> None:
        """Put a function into the machine."""
        self.functions[function.address] = function
        self.sysfs.note_driver(function)

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def dma_entry_limit(self) -> int:
        return int(self.sysfs.parameters["dma_entry_limit"])

    @property
    def charges(self) -> Charges:
        """RLIMIT_MEMLOCK of this process, and what counts against it."""
        return self.process.charges

    @property
    def locked_bytes(self) -> int:
        """What is charged to this process for pinned pages."""
        return self.charges.locked

    @property
    def containers(self) -> list[ContainerState]:
        """Those that this process has open."""
        opened = dict.fromkeys(self.process.files.values())
        return [each.file for each in opened if isinstance(each.file, ContainerState)]

    # Files.

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            file = self._lookup(path, flags)
            if file is None:
                return self._real.open(path, flags)
            if isinstance(file, GroupState):
                file.references += 1
            return self.process.install(file)

    def close(self, fd: int) -> None:
        with self._lock:
            file = self.process.file(fd)
            self._real.close(fd)
            if file is None or self.process.forget(fd):
                return
            if isinstance(file, GroupState):
                file.drop()
            elif isinstance(file, DeviceState):
                file.closed()
                file.leave_group()
            elif isinstance(file, CdevState | EventQueue):
                file.closed()
            elif isinstance(file, IommufdState):
                file.drop()

    def dup(self, fd: int) -> int:
        with self._lock:
            return self._duplicate(fd, self.process)

    def read(self, fd: int, size: int) -> bytes:
        with self._lock:
            file = self.process.file(fd)
            if isinstance(file, Text):
                data = file.content[file.position : file.position + size]
                file.position += len(data)
                return data
            if isinstance(file, MigrationFile | EventQueue):
                return file.read(size)
            if file is not None:
                raise fail(errno.EINVAL)
        return self._real.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        with self._lock:
            file = self.process.file(fd)
            if isinstance(file, Text):
                self.sysfs.write(file.path, data.decode())
                return len(data)
            if isinstance(file, MigrationFile | EventQueue):
                return file.write(data)
            if file is not None:
                raise fail(errno.EINVAL)
            written = self._real.write(fd, data)
            for device in self.ownership.opened_devices():
                device.eventfd_written(fd)
            return written

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._lock:
            file = self.process.file(fd)
            if isinstance(file, Pagemap):
                return file.pread(size, offset)
            if device := self.process.device(fd):
                return device.pread(size, offset)
        return self._real.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self._lock:
            if device := self.process.device(fd):
                return device.pwrite(data, offset)
        return self._real.pwrite(fd, data, offset)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        with self._lock:
            file = self.process.file(fd)
            if file is None:
                return self._real.ioctl(fd, request, argument)
            if isinstance(file, Text):
                raise fail(errno.ENOTTY)
            return file.ioctl(request, UserMemory(argument, self.process))

    def listdir(self, path: str) -> list[str]:
        return self.sysfs.listdir(path) if self.sysfs.covers(path) else self._real.listdir(path)

    def readlink(self, path: str) -> str:
        return self.sysfs.readlink(path) if self.sysfs.covers(path) else self._real.readlink(path)

    def owner(self, path: str) -> tuple[int, int]:
        return self.sysfs.owner(path) if self.sysfs.covers(path) else self._real.owner(path)

    def chown(self, path: str, user: int, group: int) -> None:
        if self.sysfs.covers(path):
            self.sysfs.chown(path, user, group)
        else:
            self._real.chown(path, user, group)

    # Memory.

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        with self._lock:
            if device := self.process.device(fd):
                region, within = device.check_mmap(length, flags, offset)
                # Only load and store may touch it.
                start = self._real.mmap(length, mman.PROT_NONE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
                self.process.windows.append(Window(start, length, device, region, within))
                return start
            if isinstance(file := self.process.file(fd), IommufdState):
                pages = file.map(length, protection, flags, offset)
                start = self._real.mmap(length, protection, flags, pages.fd)
                self.process.pages[start] = (file, pages)
                return start
            if flags & mman.MAP_HUGETLB and not self._host_huge_pages:
                flags &= ~(mman.MAP_HUGETLB | mman.MAP_HUGE_MASK << mman.MAP_HUGE_SHIFT)
            if flags & mman.MAP_FIXED:
                self._pages.unmapping(address, length)
            start = self._real.mmap(length, protection, flags, fd, offset, address)
            self._pages.mapped(self.process, start, length, flags, fd, offset)
            return start

    def munmap(self, address: int, length: int) -> None:
        with self._lock:
            self.process.windows = [window for window in self.process.windows if window.start != address]
            self._pages.unmapping(address, length)
            self._real.munmap(address, length)
            if address in self.process.pages:
                iommufd, pages = self.process.pages.pop(address)
                iommufd.unmap(pages)

    def madvise(self, address: int, length: int, advice: int) -> None:
        if advice in (mman.MADV_DONTNEED, mman.MADV_FREE, mman.MADV_REMOVE):
            with self._lock:
                self._pages.advising(address, length, advice)
                self._real.madvise(address, length, advice)
        else:
            # Populating takes long, and touches nothing of ours.
            self._real.madvise(address, length, advice)

    def mincore(self, address: int, length: int) -> bytes:
        return self._real.mincore(address, length)

    def mlock(self, address: int, length: int) -> None:
        self._real.mlock(address, length)

    def munlock(self, address: int, length: int) -> None:
        self._real.munlock(address, length)

    def memfd_create(self, name: str, flags: int) -> int:
        if flags & mman.MFD_HUGETLB and not self._host_huge_pages:
            flags &= ~(mman.MFD_HUGETLB | mman.MAP_HUGE_MASK << mman.MAP_HUGE_SHIFT)
        return self._real.memfd_create(name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        self._real.ftruncate(fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        with self._lock:
            if mode & mman.FALLOC_FL_PUNCH_HOLE:
                self._pages.punching(fd, offset, length)
            self._real.fallocate(fd, mode, offset, length)

    def load(self, address: int, width: int) -> int:
        with self._lock:
            if window := self.process.window(address):
                return window.device.model.load(window.region, address - window.start + window.offset, width)
        return self._real.load(address, width)

    def store(self, address: int, width: int, value: int) -> None:
        with self._lock:
            if window := self.process.window(address):
                window.device.model.store(window.region, address - window.start + window.offset, width, value)
                return
        self._real.store(address, width, value)

    # Events.

    def eventfd(self, initial: int, flags: int) -> int:
        return self._real.eventfd(initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        return self._real.poll(fds, timeout)

    # For the rest of the simulation; called with the lock held.

    def note_fault(self, address: str, iova: int, size: int, *, write: bool) -> None:
        """The IOMMU stopped a device."""
        self.dma_faults.append(DmaFault(address, iova, size, write))

    def _duplicate(self, fd: int, process: Process) -> int:
        file = self.process.file(fd)
        other = self._real.dup(fd)
        if file is not None:
            process.share(other, self.process.files[fd])
        return other

    def _lookup(self, path: str, flags: int) -> File | None:
        """What opening path gives; None if it is the real kernel's."""
        if path == "/dev/vfio/vfio":
            return IommufdState(self, per_process=True) if self._iommufd_container else ContainerState(self)
        if path == "/dev/iommu":
            if not self._has_iommufd:
                raise fail(errno.ENOENT)
            return IommufdState(self, per_process=False)
        if match := re.fullmatch(r"/dev/vfio/devices/([\w-]+)", path):
            return self.ownership.open_node(match[1], self.process)
        if match := re.fullmatch(r"/dev/vfio/(?:noiommu-)?(\d+)", path):
            return self.ownership.open_group(path.rpartition("/")[2], int(match[1]), self.process)
        if path == "/proc/self/pagemap" and any(map(self.sysfs.lacks_iommu, self.functions.values())):
            return Pagemap(self)
        if path == "/proc/self/status":
            return Text(path, status(self._real, self.charges, raw_io=self.process.raw_io))
        if path == "/proc/self/limits":
            return Text(path, limits(self._real, self.charges))
        if path == "/proc/sys/kernel/osrelease":
            return Text(path, b"%d.%d.0-simulated\n" % self.version)
        if path == TAINTED:
            return Text(path, f"{self.sysfs.tainted}\n".encode())
        if function := self.sysfs.function_of_disk(path):
            if flags & os.O_EXCL and path.removeprefix("/dev/") in function.held_disks:
                raise fail(errno.EBUSY)
            return Text(path, b"")
        if not self.sysfs.covers(path):
            return None
        if flags & os.O_ACCMODE == os.O_WRONLY:
            return Text(path, b"")
        return Text(path, self.sysfs.read(path).encode())
