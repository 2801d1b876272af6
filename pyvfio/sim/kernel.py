"""SimKernel: answers pyvfio's system calls as Linux would."""

from __future__ import annotations

import copy
import errno
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Self

from pyvfio.abi import mman
from pyvfio.errors import VfioError
from pyvfio.kernel import IoctlArgument, LinuxKernel, Window, host_page_size
from pyvfio.sim.devices import PciFunction, ready
from pyvfio.sim.iommu import Span, Version
from pyvfio.sim.iommufd import IommufdFile
from pyvfio.sim.machine import DmaFault, Machine
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import Charges, File, Process, RegisterWindow, Text, UserMemory, fail
from pyvfio.sim.procfs import locked_by_program, open_proc
from pyvfio.sim.vfio import ContainerState, VfioNodes


class SimKernel:
    """What one process sees of a machine of PCI functions behind an IOMMU. A Kernel; safe from several threads.

    edu_devices: how many edu devices the machine has, from 0000:00:03.0 up, each in a group of its own and bound to
    vfio-pci; devices: more of them, by name, in the slots after those: "edu", "nvme" or "e1000e". add() puts any other
    function in. version: the Linux that it answers like. iommu: its model, "intel", "amd", "virtio" or "none";
    iova_ranges: the usable addresses, first and last of each, if not the model's; remaps_interrupts: whether it does,
    if not as the model. iommu_tracks_dirty: it notes which pages devices write.
    memlock: RLIMIT_MEMLOCK in bytes, None for unlimited; ipc_lock: the process has CAP_IPC_LOCK, so that type1 does not
    look at the limit. What the process has locked by itself counts too. dma_entry_limit: the parameter of
    vfio_iommu_type1, mappings.
    populate_on_pin: a mapping takes real pages, as on Linux; if false, more can be mapped than the host has.
    host_huge_pages: hugetlb memory comes from the host's pool; if false, ordinary pages stand in for it.
    iommufd: there are /dev/iommu and, from Linux 6.6 on, nodes of devices; iommufd_container: iommufd provides
    /dev/vfio/vfio. iommufd_test: iommufd has its test devices (CONFIG_IOMMUFD_TEST), those of Linux 7.3 whatever the
    version: pyvfio.drivers.iommufd_mock.
    Descriptors and memory are real; the running kernel does what is not VFIO's. So the simulated machine's processor is
    the host's: little endian, with pages of 4 KiB. Raises VfioError (ENOSYS) on another.
    Raises ValueError for a name in devices that no simulated device has.
    """

    def __init__(
        self,
        *,
        edu_devices: int = 0,
        devices: Sequence[str] = (),
        version: Version = (6, 12),
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
        _require_such_a_host()
        self._real = LinuxKernel()
        self.machine = Machine(
            self._real,
            version=version,
            iommu=iommu,
            iova_ranges=iova_ranges,
            remaps_interrupts=remaps_interrupts,
            dma_entry_limit=dma_entry_limit,
            populate_on_pin=populate_on_pin,
            iommufd=iommufd,
            iommu_tracks_dirty=iommu_tracks_dirty,
            iommufd_test=iommufd_test,
        )
        self.vfio = VfioNodes(self.machine, iommufd_container=iommufd_container)
        self.process = Process(Charges(memlock, ipc_lock, self._locked_here))
        self._pages = self.machine.pages
        self._host_huge_pages = host_huge_pages
        for slot, name in enumerate(["edu"] * edu_devices + list(devices), start=3):
            self.add(ready(name, slot))

    def spawn(self) -> Self:
        """Another process on the same machine: a Kernel with descriptors and memory of its own, none at first.

        Memory that one process has mapped is not there for the other; both may map a file that is passed on. The new
        process begins with the limit and the capabilities of this one, and each changes its own. What a process locks
        with its kernel's mlock() is charged to it; what is locked in another way, to the first process.
        """
        # They share all but the process.
        other = copy.copy(self)
        mlocked: set[int] = set()
        charges = Charges(self.charges.limit, self.charges.exempt, lambda: PAGE * len(mlocked), user=self.charges.user)
        other.process = Process(charges, self.process.raw_io, mlocked=mlocked, others=self.process.others)
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
            for start, area in list(self.process.areas.items()):
                self.munmap(start, area.size)
            for page in list(self.process.mlocked):
                self.munlock(page * PAGE, PAGE)
            self.process.has_ended = True

    def add(self, function: PciFunction) -> None:
        """Put a function into the machine."""
        self.machine.add(function)

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def version(self) -> Version:
        """Which Linux it answers like."""
        return self.machine.version

    @property
    def functions(self) -> dict[str, PciFunction]:
        """The machine's functions, by address. Taking one out of the dictionary takes it out of the machine."""
        return self.machine.functions

    @property
    def parameters(self) -> Mapping[str, dict[str, str]]:
        """The values of modules' parameters, by the directory in sysfs and the name."""
        return self.machine.sysfs.modules

    @property
    def dma_faults(self) -> list[DmaFault]:
        """Transfers that the IOMMU has stopped, the oldest first."""
        return self.machine.dma_faults

    @property
    def dma_entry_limit(self) -> int:
        """How many mappings a new container may have."""
        return self.machine.dma_entry_limit

    @property
    def charges(self) -> Charges:
        """RLIMIT_MEMLOCK of this process, and what counts against it."""
        return self.process.charges

    @property
    def locked_bytes(self) -> int:
        """How many bytes of pinned pages are charged to this process."""
        return self.charges.locked

    @property
    def containers(self) -> list[ContainerState]:
        """The containers that this process has open."""
        opened = dict.fromkeys(self.process.files.values())
        return [each.file for each in opened if isinstance(each.file, ContainerState)]

    # Files.

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            file = self._open(path, flags)
            return self._real.open(path, flags) if file is None else self.process.install(file)

    def close(self, fd: int) -> None:
        with self._lock:
            is_ours = self._file(fd) is not None
            self._real.close(fd)
            if is_ours:
                self.process.forget(fd)

    def dup(self, fd: int) -> int:
        with self._lock:
            return self._duplicate(fd, self.process)

    def read(self, fd: int, size: int) -> bytes:
        with self._lock:
            if file := self._file(fd):
                return file.read(size)
        return self._real.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        with self._lock:
            if file := self._file(fd):
                return file.write(data)
            written = self._real.write(fd, data)
            self.vfio.ownership.eventfd_written(fd)
            return written

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._lock:
            if file := self._file(fd):
                return file.pread(size, offset)
        return self._real.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self._lock:
            if file := self._file(fd):
                return file.pwrite(data, offset)
        return self._real.pwrite(fd, data, offset)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        with self._lock:
            if file := self._file(fd):
                return file.ioctl(request, UserMemory(argument, self.process))
            return self._real.ioctl(fd, request, argument)

    def listdir(self, path: str) -> list[str]:
        return self.machine.sysfs.listdir(path) if self.machine.sysfs.covers(path) else self._real.listdir(path)

    def readlink(self, path: str) -> str:
        return self.machine.sysfs.readlink(path) if self.machine.sysfs.covers(path) else self._real.readlink(path)

    def owner(self, path: str) -> tuple[int, int]:
        return self.machine.sysfs.owner(path) if self.machine.sysfs.covers(path) else self._real.owner(path)

    def device_number(self, path: str) -> str:
        sysfs = self.machine.sysfs
        return sysfs.device_number(path) if sysfs.covers(path) else self._real.device_number(path)

    def chown(self, path: str, user: int, group: int) -> None:
        if self.machine.sysfs.covers(path):
            self.machine.sysfs.chown(path, user, group)
        else:
            self._real.chown(path, user, group)

    # Memory.

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        with self._lock:
            if file := self._file(fd):
                return self._map_file(file, length, protection, flags, offset)
            if flags & mman.MAP_HUGETLB and not self._host_huge_pages:
                flags &= ~(mman.MAP_HUGETLB | mman.MAP_HUGE_MASK << mman.MAP_HUGE_SHIFT)
            if flags & mman.MAP_FIXED:
                self._pages.unmapping(address, length)
            start = self._real.mmap(length, protection, flags, fd, offset, address)
            self._pages.mapped(self.process, start, length, flags, fd, offset)
            return start

    def munmap(self, address: int, length: int) -> None:
        with self._lock:
            area = self.process.areas.pop(address, None)
            self._pages.unmapping(address, length)
            self._real.munmap(address, length)
            self.process.mlocked.difference_update(_pages(address, length))
            if area is not None:
                area.close()

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
        with self._lock:
            pages = set(_pages(address, length)) - self.process.mlocked
            self.charges.require_mlock(PAGE * len(pages))
            before = locked_by_program(self._real)
            self._real.mlock(address, length)
            # Huge pages are looked at for the limit, and counted nowhere.
            if locked_by_program(self._real) > before or self.process.mlocked_elsewhere & pages:
                self.process.mlocked |= pages

    def munlock(self, address: int, length: int) -> None:
        with self._lock:
            self.process.mlocked.difference_update(_pages(address, length))
            if not self.process.mlocked_elsewhere.intersection(_pages(address, length)):
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

    def next_data(self, fd: int, offset: int) -> tuple[int, int] | None:
        return self._real.next_data(fd, offset)

    def allocated(self, fd: int) -> int:
        return self._real.allocated(fd)

    def window(self, address: int, length: int, *, writable: bool = True) -> Window:
        with self._lock:
            area, offset = self.process.area(address) or (None, 0)
            if area is None or area.registers is None:
                return self._real.window(address, length, writable=writable)
            start = address - offset
            return RegisterWindow(
                self._lock, area.registers, offset, length, lambda: self.process.areas.get(start) is area
            )

    # Events.

    def eventfd(self, initial: int, flags: int) -> int:
        return self._real.eventfd(initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        return self._real.poll(fds, timeout)

    @property
    def _lock(self) -> threading.RLock:
        return self.machine.lock

    def _locked_here(self) -> int:
        """How many bytes the running process has locked, but for what is another simulated one's."""
        return locked_by_program(self._real) - PAGE * len(self._first.mlocked_elsewhere)

    # What a process has open; called with the lock held.

    def _file(self, fd: int) -> File | None:
        """None for a descriptor of the running kernel's. Raises OSError(EBADF) for another process's."""
        return self.process.file(fd, File)

    def _open(self, path: str, flags: int) -> File | None:
        """What opening a path gives; None if it is the running kernel's."""
        if path == "/dev/iommu":
            if not self.machine.has_iommufd:
                raise fail(errno.ENOENT)
            return IommufdFile(self.machine, per_process=False)
        file = self.vfio.open(path, self.process) or open_proc(self.machine, self.process, path)
        if file is None and (function := self.machine.sysfs.function_of_disk(path)):
            if flags & os.O_EXCL and path.removeprefix("/dev/") in function.held_disks:
                raise fail(errno.EBUSY)
            return Text(b"")
        if file is None and self.machine.sysfs.covers(path):
            return self.machine.sysfs.open(path, flags)
        return file

    def _map_file(self, file: File, length: int, protection: int, flags: int, offset: int) -> int:
        area = file.mmap(length, protection, flags, offset)
        if area.registers is not None:
            # Only a window may touch them.
            start = self._real.mmap(length, mman.PROT_NONE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
        else:
            start = self._real.mmap(length, protection, flags, area.pages)
        self.process.areas[start] = area
        return start

    @property
    def _first(self) -> Process:
        """The process that all others come from."""
        return self.process.others[0]

    def _duplicate(self, fd: int, process: Process) -> int:
        file = self._file(fd)
        other = self._real.dup(fd)
        if file is not None:
            process.share(other, self.process.files[fd])
        return other


def _pages(address: int, length: int) -> range:
    """The numbers of the pages that a range touches."""
    return range(address // PAGE, -(-(address + length) // PAGE))


def _require_such_a_host() -> None:
    """Raises VfioError where memory that is real would not be the simulated machine's."""
    if sys.byteorder != "little" or host_page_size() != PAGE:
        what = f"{sys.byteorder} endian, with pages of {host_page_size() >> 10} KiB"
        meaning = f"this host is {what}; the simulated machine is little endian, with pages of 4 KiB"
        raise VfioError(errno.ENOSYS, "simulate a kernel", meaning=meaning)
