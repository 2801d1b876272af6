"""FaultyKernel: a kernel whose calls fail on demand."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from pyvfio.abi import iommufd, vfio
from pyvfio.faults.rules import Before, Call, FalseUnmap, Fault, Hold, Interrupt, Rule, ShortUnmap, Vanish
from pyvfio.faults.vanished import OpenDevices
from pyvfio.kernel import IoctlArgument, Kernel, Window
from pyvfio.lifetime import lock_of

T = TypeVar("T")

_GIVE_DESCRIPTORS = (vfio.VFIO_GROUP_GET_DEVICE_FD, vfio.VFIO_DEVICE_GET_GFX_DMABUF)
_TOLD_FROM_MEMORY = (vfio.VFIO_DEVICE_GET_INFO, vfio.VFIO_DEVICE_GET_REGION_INFO, vfio.VFIO_DEVICE_GET_IRQ_INFO)


class FaultyKernel:
    """Hands every call to another kernel, unless a rule says otherwise. Safe from several threads.

    calls: those made since rules were armed. rules: as for arm().
    """

    def __init__(self, kernel: Kernel, *rules: Rule) -> None:
        self.kernel = kernel
        self.calls: list[Call] = []
        self._running_lock = threading.RLock()
        self._made_by = os.getpid()
        self._devices = OpenDevices(kernel)
        self._rules: list[tuple[Rule, list[int]]] = []
        self.arm(*rules)

    def arm(self, *rules: Rule) -> None:
        """Forget the rules and the calls so far. Each of these rules counts the calls that match it, from now on."""
        with self._lock:
            self._rules = [(rule, [0]) for rule in rules]
            self.calls = []

    def vanish(self, address: str) -> None:
        """Take a PCI device away for good, as when it is pulled out.

        Its registers and its config space read as ones, and writes to them have no effect. The kernel still tells what
        regions and interrupts it had, and closes its descriptors; every other call for it fails with ENODEV.
        """
        self._devices.vanish(address)

    @property
    def name(self) -> str:
        return self.kernel.name

    def open(self, path: str, flags: int) -> int:
        fd = self._opening("open", self.kernel.open, path, flags)
        self._devices.opened(fd, path)
        return fd

    def close(self, fd: int) -> None:
        self._call("close", self.kernel.close, fd)
        self._devices.closed(fd)

    def dup(self, fd: int) -> int:
        other = self._opening("dup", self.kernel.dup, fd)
        self._devices.duplicated(fd, other)
        return other

    def read(self, fd: int, size: int) -> bytes:
        return self._call("read", self.kernel.read, fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return self._call("write", self.kernel.write, fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        due = self._before(Call("pread"))
        data = b"\xff" * size if self._devices.is_gone(fd) else self.kernel.pread(fd, size, offset)
        _after(due)
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        due = self._before(Call("pwrite"))
        written = len(data) if self._devices.is_gone(fd) else self.kernel.pwrite(fd, data, offset)
        _after(due)
        return written

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        due = self._before(Call("ioctl", request))
        if request not in _TOLD_FROM_MEMORY:
            self._require(fd)
        false = next((rule for rule in due if isinstance(rule, FalseUnmap)), None)
        if false is not None:
            return self._unmap_falsely(false, fd, request, argument)
        short = next((rule for rule in due if isinstance(rule, ShortUnmap)), None)
        if short is not None and not _shorten(argument, short.size):
            return 0
        result = self.kernel.ioctl(fd, request, argument)
        self._after_opening(due, result) if request in _GIVE_DESCRIPTORS else _after(due)
        self._devices.called(request, argument, result)
        return result

    def _unmap_falsely(self, rule: FalseUnmap, fd: int, request: int, argument: IoctlArgument) -> int:
        """Raises OSError as the rule says."""
        asked = _shorten(argument, 1 << 64 if rule.unmaps is None else rule.unmaps)
        if asked or rule.unmaps is None:
            # What the kernel says of it is not what is told.
            with suppress(OSError):
                self.kernel.ioctl(fd, request, argument)
        if rule.errno is not None:
            raise OSError(rule.errno, os.strerror(rule.errno))
        match argument:
            case vfio.vfio_iommu_type1_dma_unmap():
                argument.size = rule.says
            case iommufd.iommu_ioas_unmap():
                argument.length = rule.says
        return 0

    def listdir(self, path: str) -> list[str]:
        return self._call("listdir", self.kernel.listdir, path)

    def readlink(self, path: str) -> str:
        return self._call("readlink", self.kernel.readlink, path)

    def owner(self, path: str) -> tuple[int, int]:
        return self._call("owner", self.kernel.owner, path)

    def device_number(self, path: str) -> str:
        return self._call("device_number", self.kernel.device_number, path)

    def chown(self, path: str, user: int, group: int) -> None:
        self._call("chown", self.kernel.chown, path, user, group)

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        due = self._before(Call("mmap"))
        self._require(fd)
        start = self.kernel.mmap(length, protection, flags, fd, offset, address)
        self._devices.mapped(fd, start, length)
        _after(due)
        return start

    def munmap(self, address: int, length: int) -> None:
        self._call("munmap", self.kernel.munmap, address, length)
        self._devices.unmapped(address)

    def madvise(self, address: int, length: int, advice: int) -> None:
        self._call("madvise", self.kernel.madvise, address, length, advice)

    def mincore(self, address: int, length: int) -> bytes:
        return self._call("mincore", self.kernel.mincore, address, length)

    def mlock(self, address: int, length: int) -> None:
        self._call("mlock", self.kernel.mlock, address, length)

    def munlock(self, address: int, length: int) -> None:
        self._call("munlock", self.kernel.munlock, address, length)

    def memfd_create(self, name: str, flags: int) -> int:
        return self._opening("memfd_create", self.kernel.memfd_create, name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        self._call("ftruncate", self.kernel.ftruncate, fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._call("fallocate", self.kernel.fallocate, fd, mode, offset, length)

    def next_data(self, fd: int, offset: int) -> tuple[int, int] | None:
        return self._call("next_data", self.kernel.next_data, fd, offset)

    def allocated(self, fd: int) -> int:
        return self._call("allocated", self.kernel.allocated, fd)

    def window(self, address: int, length: int, *, writable: bool = True) -> Window:
        window = self.kernel.window(address, length, writable=writable)
        return self._devices.window(address, window)

    def eventfd(self, initial: int, flags: int) -> int:
        return self._opening("eventfd", self.kernel.eventfd, initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        return self._call("poll", self.kernel.poll, fds, timeout)

    @property
    def _lock(self) -> threading.RLock:
        return lock_of(self._made_by, self._running_lock)

    def _call(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        due = self._before(Call(name))
        result = function(*arguments)
        _after(due)
        return result

    def _opening(self, name: str, function: Callable[..., int], *arguments: object) -> int:
        """A call that returns a new descriptor."""
        due = self._before(Call(name))
        fd = function(*arguments)
        self._after_opening(due, fd)
        return fd

    def _after_opening(self, due: Sequence[Rule], fd: int) -> None:
        """As _after(), for a call that has returned a new descriptor: nobody else could close it any more."""
        try:
            _after(due)
        except BaseException:
            self.kernel.close(fd)
            raise

    def _require(self, fd: int) -> None:
        """Raises OSError(ENODEV) for a descriptor of a device that is gone."""
        if self._devices.is_gone(fd):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def _before(self, call: Call) -> list[Rule]:
        """Count the call, and do what the rules that it meets say to do before; return these rules.

        Raises OSError for a Fault, and what an Interrupt raises.
        """
        due: list[Rule] = []
        with self._lock:
            self.calls.append(call)
            for rule, seen in self._rules:
                if rule.matches(call):
                    if rule.nth in (None, seen[0]):
                        due.append(rule)
                    seen[0] += 1
        for rule in due:
            match rule:
                case Fault():
                    raise OSError(rule.errno, os.strerror(rule.errno))
                case Interrupt() if not rule.is_made:
                    raise rule.error
                case Before():
                    rule.action()
                case Hold():
                    rule.reached.set()
                    rule.released.wait()
                case Vanish():
                    self.vanish(rule.address)
        return due


def _after(due: Sequence[Rule]) -> None:
    """The call that these rules are about was made, and succeeded. Raises what an Interrupt raises."""
    for rule in due:
        if isinstance(rule, Interrupt) and rule.is_made:
            raise rule.error


def _shorten(argument: IoctlArgument, size: int) -> int:
    """Let an unmap ask for no more than size bytes: how many it asks for then."""
    match argument:
        case vfio.vfio_iommu_type1_dma_unmap():
            argument.size = min(argument.size, size)
            return argument.size
        case iommufd.iommu_ioas_unmap():
            argument.length = min(argument.length, size)
            return argument.length
        case _:
            return size
