"""FaultyKernel: any system call fails on demand, on the simulated kernel and on the real one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyvfio.abi import vfio
from pyvfio.kernel import IoctlArgument, Kernel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call through the seam: the method of Kernel, and which ioctl."""

    name: str
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Applies to the nth matching call, counted from 0 since it was armed, or to every one.

    name: a method of Kernel, None for any; request: which ioctl, None for any.
    """

    nth: int | None = None
    name: str | None = None
    request: int | None = None

    def matches(self, call: Call) -> bool:
        return self.name in (None, call.name) and self.request in (None, call.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Rule):
    """The call fails with errno and never reaches the kernel."""

    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortUnmap(Rule):
    """Of an UNMAP_DMA only the first size bytes are unmapped, and reported."""

    size: int
    name: str | None = "ioctl"
    request: int | None = vfio.VFIO_IOMMU_UNMAP_DMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Before(Rule):
    """action runs first: it waits for an event, or takes a device away."""

    action: Callable[[], None]


class FaultyKernel:
    """Hands every call to kernel unless a rule says otherwise. Safe from several threads."""

    def __init__(self, kernel: Kernel, *rules: Rule) -> None:
        self.kernel = kernel
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, list[int]]] = []
        self.arm(*rules)

    def arm(self, *rules: Rule) -> None:
        """Forget the rules and the calls so far, and begin to count for these."""
        with self._lock:
            self._rules = [(rule, [0]) for rule in rules]
            self.calls = []

    @property
    def name(self) -> str:
        return self.kernel.name

    def open(self, path: str, flags: int) -> int:
        return self._call("open", self.kernel.open, path, flags)

    def close(self, fd: int) -> None:
        self._call("close", self.kernel.close, fd)

    def read(self, fd: int, size: int) -> bytes:
        return self._call("read", self.kernel.read, fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return self._call("write", self.kernel.write, fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self._call("pread", self.kernel.pread, fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._call("pwrite", self.kernel.pwrite, fd, data, offset)

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        short = self._before(Call("ioctl", request))
        if short is not None and isinstance(argument, vfio.vfio_iommu_type1_dma_unmap):
            argument.size = min(argument.size, short.size)
            if not argument.size:
                return 0
        return self.kernel.ioctl(fd, request, argument)

    def listdir(self, path: str) -> list[str]:
        return self._call("listdir", self.kernel.listdir, path)

    def readlink(self, path: str) -> str:
        return self._call("readlink", self.kernel.readlink, path)

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0) -> int:
        return self._call("mmap", self.kernel.mmap, length, protection, flags, fd, offset, address)

    def munmap(self, address: int, length: int) -> None:
        self._call("munmap", self.kernel.munmap, address, length)

    def madvise(self, address: int, length: int, advice: int) -> None:
        self._call("madvise", self.kernel.madvise, address, length, advice)

    def mincore(self, address: int, length: int) -> bytes:
        return self._call("mincore", self.kernel.mincore, address, length)

    def memfd_create(self, name: str, flags: int) -> int:
        return self._call("memfd_create", self.kernel.memfd_create, name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        self._call("ftruncate", self.kernel.ftruncate, fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._call("fallocate", self.kernel.fallocate, fd, mode, offset, length)

    def load(self, address: int, width: int) -> int:
        return self.kernel.load(address, width)

    def store(self, address: int, width: int, value: int) -> None:
        self.kernel.store(address, width, value)

    def eventfd(self, initial: int, flags: int) -> int:
        return self._call("eventfd", self.kernel.eventfd, initial, flags)

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        return self._call("poll", self.kernel.poll, fds, timeout)

    def _call(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        self._before(Call(name))
        return function(*arguments)

    def _before(self, call: Call) -> ShortUnmap | None:
        """Count the call and apply what is due. Raises the OSError of a fault."""
        due: list[Rule] = []
        with self._lock:
            self.calls.append(call)
            for rule, seen in self._rules:
                if rule.matches(call):
                    if rule.nth in (None, seen[0]):
                        due.append(rule)
                    seen[0] += 1
        short = None
        for rule in due:
            match rule:
                case Fault():
                    raise OSError(rule.errno, os.strerror(rule.errno))
                case Before():
                    rule.action()
                case ShortUnmap():
                    short = rule
        return short
