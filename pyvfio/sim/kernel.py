"""SimKernel: answers pyvfio's system calls as Linux would."""

from __future__ import annotations

import errno
import os
import re
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from pyvfio.abi import mman
from pyvfio.kernel import IoctlArgument, LinuxKernel
from pyvfio.sim.container import ContainerState
from pyvfio.sim.device import DeviceState, DmaFault
from pyvfio.sim.group import GroupState
from pyvfio.sim.iommu import Span, iommu_model
from pyvfio.sim.migration import MigrationFile
from pyvfio.sim.pages import PageTracker, Pin
from pyvfio.sim.pci import VFIO_DRIVER, PciFunction, Sysfs
from pyvfio.sim.user import UserMemory, fail

_PAGE = 4096
_CAP_IPC_LOCK = 1 << 14


@dataclass(slots=True)
class _Text:
    """A file of text; path set: writing to it is an action."""

    path: str
    content: bytes
    position: int = 0


@dataclass(slots=True)
class _Window:
    """Where a device's registers are mapped, and from which of their offsets on."""

    start: int
    size: int
    device: DeviceState
    region: int
    offset: int


@dataclass(slots=True)
class _Devices:
    """Which devices and groups are in use."""

    groups: dict[int, GroupState] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)


_File = _Text | ContainerState | GroupState | DeviceState | MigrationFile


class SimKernel:
    """A machine of PCI functions behind an IOMMU. A Kernel; safe from several threads.

    version: which Linux it answers like. iommu: "intel", "amd" or "virtio"; iova_ranges: other usable addresses, first
    and last of each; remaps_interrupts: whether it can, if not as the model does. memlock: RLIMIT_MEMLOCK in bytes,
    tested unless ipc_lock; what the process has locked by itself counts too. dma_entry_limit: as the module's.
    populate_on_pin: mapping takes real pages as Linux does; without, a region larger than the host can be mapped.
    host_huge_pages: hugetlb memory comes from the host's pool; without, ordinary pages stand in for it.
    Descriptors and memory are real; what is not VFIO's is done by the running kernel.
    """

    def __init__(
        self,
        *,
        version: tuple[int, int] = (6, 12),
        iommu: str = "intel",
        iova_ranges: Sequence[Span] | None = None,
        remaps_interrupts: bool | None = None,
        memlock: int | None = None,
        ipc_lock: bool = True,
        dma_entry_limit: int = 65535,
        populate_on_pin: bool = True,
        host_huge_pages: bool = True,
    ) -> None:
        self.version = version
        self.iommu = iommu
        self.iommu_model = iommu_model(iommu, version)
        self.iova_ranges = tuple(iova_ranges or self.iommu_model.usable)
        self.page_sizes = self.iommu_model.page_sizes
        self.remaps_interrupts = self.iommu_model.remaps_interrupts if remaps_interrupts is None else remaps_interrupts
        self.memlock = memlock
        self.ipc_lock = ipc_lock
        self.locked_bytes = 0
        self.dma_faults: list[DmaFault] = []
        self.functions: dict[str, PciFunction] = {}
        self.sysfs = Sysfs(self.functions, dma_entry_limit)
        self._real = LinuxKernel()
        self._host_huge_pages = host_huge_pages
        self._pages = PageTracker(self._real, populate_on_pin=populate_on_pin)
        self._lock = threading.RLock()
        self._files: dict[int, _File] = {}
        self._windows: list[_Window] = []
        self._used = _Devices()

    @classmethod
    def with_edu_devices(cls, count: int, **options: object) -> Self:
        """A machine with edu devices at 0000:00:03.0 and up, each in a group of its own, bound to vfio-pci."""
        kernel = cls(**options)  # type: ignore[arg-type]
        for number in range(count):
            kernel.add(PciFunction(f"0000:00:{3 + number:02x}.0", group=3 + number, driver=VFIO_DRIVER))
        return kernel

    def add(self, function: PciFunction) -> None:
        """Put a function into the machine."""
        self.functions[function.address] = function

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def dma_entry_limit(self) -> int:
        return int(self.sysfs.parameters["dma_entry_limit"])

    @property
    def containers(self) -> list[ContainerState]:
        """Those that are open."""
        return [file for file in self._files.values() if isinstance(file, ContainerState)]

    # Files.

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            file = self._lookup(path, flags)
            if file is None:
                return self._real.open(path, flags)
            if isinstance(file, GroupState):
                file.references += 1
            return self.install(file)

    def close(self, fd: int) -> None:
        with self._lock:
            file = self._files.pop(fd, None)
            self._real.close(fd)
            if isinstance(file, GroupState):
                file.drop()
            elif isinstance(file, DeviceState):
                file.closed()
                file.group.open_devices -= 1
                file.group.drop()

    def read(self, fd: int, size: int) -> bytes:
        with self._lock:
            file = self._files.get(fd)
            if isinstance(file, _Text):
                data = file.content[file.position : file.position + size]
                file.position += len(data)
                return data
            if isinstance(file, MigrationFile):
                return file.read(size)
            if file is not None:
                raise fail(errno.EINVAL)
        return self._real.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        with self._lock:
            file = self._files.get(fd)
            if isinstance(file, _Text):
                self.sysfs.write(file.path, data.decode())
                return len(data)
            if isinstance(file, MigrationFile):
                return file.write(data)
            if file is not None:
                raise fail(errno.EINVAL)
            written = self._real.write(fd, data)
            for device in self._used.devices.values():
                if device.opens:
                    device.eventfd_written(fd)
            return written

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._lock:
            file = self._files.get(fd)
            if isinstance(file, DeviceState):
                return file.pread(size, offset)
        return self._real.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self._lock:
            file = self._files.get(fd)
            if isinstance(file, DeviceState):
                return file.pwrite(data, offset)
        return self._real.pwrite(fd, data, offset)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        with self._lock:
            file = self._files.get(fd)
            if file is None:
                return self._real.ioctl(fd, request, argument)
            if isinstance(file, _Text):
                raise fail(errno.ENOTTY)
            return file.ioctl(request, UserMemory(argument))

    def listdir(self, path: str) -> list[str]:
        return self.sysfs.listdir(path) if self.sysfs.covers(path) else self._real.listdir(path)

    def readlink(self, path: str) -> str:
        return self.sysfs.readlink(path) if self.sysfs.covers(path) else self._real.readlink(path)

    # Memory.

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        with self._lock:
            file = self._files.get(fd) if fd >= 0 else None
            if isinstance(file, DeviceState):
                region, within = file.check_mmap(length, flags, offset)
                # Only load and store may touch it.
                start = self._real.mmap(length, mman.PROT_NONE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
                self._windows.append(_Window(start, length, file, region, within))
                return start
            if flags & mman.MAP_HUGETLB and not self._host_huge_pages:
                flags &= ~(mman.MAP_HUGETLB | mman.MAP_HUGE_MASK << mman.MAP_HUGE_SHIFT)
            if flags & mman.MAP_FIXED:
                self._pages.unmapping(address, length)
            start = self._real.mmap(length, protection, flags, fd, offset, address)
            self._pages.mapped(start, length, flags, fd, offset)
            return start

    def munmap(self, address: int, length: int) -> None:
        with self._lock:
            self._windows = [window for window in self._windows if window.start != address]
            self._pages.unmapping(address, length)
            self._real.munmap(address, length)

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
            if window := self._window(address):
                return window.device.model.load(window.region, address - window.start + window.offset, width)
        return self._real.load(address, width)

    def store(self, address: int, width: int, value: int) -> None:
        with self._lock:
            if window := self._window(address):
                window.device.model.store(window.region, address - window.start + window.offset, width, value)
                return
        self._real.store(address, width, value)

    # Events.

    def eventfd(self, initial: int, flags: int) -> int:
        return self._real.eventfd(initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        return self._real.poll(fds, timeout)

    # For the rest of the simulation; called with the lock held.

    def pin(self, vaddr: int, size: int, *, write: bool) -> Pin | None:
        """Take pages for a mapping and charge them. None for a device's registers, which are not memory."""
        if (window := self._window(vaddr)) and vaddr + size <= window.start + window.size:
            return None
        pin = self._pages.pin(vaddr, size, write=write, charges_zero_page=self.version >= (6, 18))
        if not self.ipc_lock and self.memlock is not None and self._locked_by_process() + pin.charged > self.memlock:
            self._pages.unpin(pin)
            raise fail(errno.ENOMEM)
        self.locked_bytes += pin.charged
        return pin

    def unpin(self, pin: Pin) -> None:
        self._pages.unpin(pin)
        self.locked_bytes -= pin.charged

    def container_of(self, fd: int) -> ContainerState | None:
        """What a descriptor is of, None if of no container. Raises OSError(EBADF)."""
        file = self._files.get(fd)
        if file is None:
            os.fstat(fd)
        return file if isinstance(file, ContainerState) else None

    def install(self, file: _File) -> int:
        """A descriptor of file."""
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._files[fd] = file
        return fd

    def group_of(self, fd: int) -> GroupState:
        """Whose descriptor it is. Raises OSError: EBADF, EINVAL if no group's."""
        file = self._files.get(fd)
        if file is None:
            os.fstat(fd)
        if not isinstance(file, GroupState):
            raise fail(errno.EINVAL)
        return file

    def opened_device(self, address: str) -> DeviceState | None:
        """None if nobody has it open."""
        device = self._used.devices.get(address)
        return device if device and device.opens else None

    def note_fault(self, address: str, iova: int, size: int, *, write: bool) -> None:
        """The IOMMU stopped a device."""
        self.dma_faults.append(DmaFault(address, iova, size, write))

    def open_device(self, group: GroupState, name: str) -> int:
        """A new descriptor of a member of group. name: its address, and perhaps " vf_token=UUID" behind it."""
        address, _, option = name.partition(" ")
        function = self.functions.get(address)
        if function is None or function.group != group.number or function.driver != VFIO_DRIVER:
            raise fail(errno.ENODEV)
        if group.container is None or group.container.iommu is None:
            raise fail(errno.EINVAL)
        device = self.opened_device(address) or DeviceState(self, function, group)
        self._check_vf_token(function, device, option.removeprefix("vf_token=") if option else None)
        self._used.devices[address] = device
        fd = self.install(device)
        device.opened()
        group.references += 1
        group.open_devices += 1
        return fd

    def _lookup(self, path: str, flags: int) -> _File | None:
        """What opening path gives; None if it is the real kernel's."""
        if path == "/dev/vfio/vfio":
            return ContainerState(self)
        if match := re.fullmatch(r"/dev/vfio/(\d+)", path):
            number = int(match[1])
            if not self.sysfs.has_node(number):
                raise fail(errno.ENOENT)
            group = self._used.groups.get(number)
            if group is not None and group.references:
                raise fail(errno.EBUSY)
            self._used.groups[number] = GroupState(self, number)
            return self._used.groups[number]
        if path == "/proc/self/status":
            return _Text(path, self._status())
        if path == "/proc/self/limits":
            return _Text(path, self._limits())
        if not self.sysfs.covers(path):
            return None
        if flags & os.O_ACCMODE == os.O_WRONLY:
            return _Text(path, b"")
        return _Text(path, self.sysfs.read(path).encode())

    def _check_vf_token(self, function: PciFunction, device: DeviceState, given: str | None) -> None:
        """Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_validate_vf_token."""
        token = None if given is None else uuid.UUID(given).bytes
        if function.physical_function is not None:
            physical = self.opened_device(function.physical_function)
            if physical is None and token is not None:
                raise fail(errno.EINVAL)
            if physical is not None and physical.features.vf_token != token:
                raise fail(errno.EACCES)
        elif device.features.vf_token is None:
            if token is not None:
                raise fail(errno.EINVAL)
        elif any(self.opened_device(other.address) for other in self._virtual_functions(function)):
            if device.features.vf_token != token:
                raise fail(errno.EACCES)
        elif token is not None:
            device.features.vf_token = token

    def _virtual_functions(self, physical: PciFunction) -> list[PciFunction]:
        return [function for function in self.functions.values() if function.physical_function == physical.address]

    def _window(self, address: int) -> _Window | None:
        return next((window for window in self._windows if window.start <= address < window.start + window.size), None)

    def _locked_by_process(self, status: str | None = None) -> int:
        """Bytes: what is pinned here, and what the process has locked on the running kernel."""
        found = re.search(r"VmLck:\s*(\d+)", status or self._real_text("/proc/self/status"))
        return self.locked_bytes + (int(found[1]) << 10 if found else 0)

    def _status(self) -> bytes:
        text = self._real_text("/proc/self/status")
        text = re.sub(r"VmLck:.*", f"VmLck:\t{self._locked_by_process(text) >> 10:8} kB", text)
        capabilities = _CAP_IPC_LOCK if self.ipc_lock else 0
        return re.sub(r"CapEff:.*", f"CapEff:\t{capabilities:016x}", text).encode()

    def _limits(self) -> bytes:
        limit = "unlimited" if self.memlock is None else str(self.memlock)
        line = f"Max locked memory         {limit:<20} {limit:<20} bytes"
        return re.sub(r"Max locked memory.*", line, self._real_text("/proc/self/limits")).encode()

    def _real_text(self, path: str) -> str:
        fd = self._real.open(path, os.O_RDONLY)
        try:
            return self._real.read(fd, 65536).decode()
        finally:
            self._real.close(fd)
