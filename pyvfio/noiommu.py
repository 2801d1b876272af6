"""Physical addresses of memory, for DMA without an IOMMU. UNSAFE.

Nothing stops a device that is given a physical address from writing anywhere in the host's memory, by a mistake of the
program or of the device. And an address holds only while the kernel leaves the page where it is, which it promises for
no page of a process. It does not swap huge pages that are locked, and hardly ever moves them, which is why
UnsafePhysicalMemory takes no others. Memory of any kind stays where it is while iommufd has it pinned: from Linux 7.3
on, Ioas.physical_range() tells where that is, for a device that was opened with unsafe_noiommu. With an IOMMU, or a
virtual one, use Container or Ioas without any of this.

A kernel that lets a device without an IOMMU be used is tainted (the U of "Tainted: ... U ..." in its log, bit 6 of
/proc/sys/kernel/tainted) from the moment that such a device is bound to a VFIO driver until the next boot, and its
maintainers may not look at what goes wrong.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvfio.errors import InvalidArgument, MemlockExceeded, MemoryUnavailable, VfioError
from pyvfio.explain import explain
from pyvfio.kernel import host_page_size, memlock
from pyvfio.memory import DmaTarget, Memory
from pyvfio.resource import Resource

ENABLE = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
"""Root writes 1 to this file before binding a device without an IOMMU: VFIO takes it then, and taints the kernel."""

_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1


@dataclass(frozen=True, slots=True)
class PhysicalRun:
    """A part of a memory that lies in one piece in the host's physical memory. All three are bytes.

    offset: where it begins in the memory. address: where it begins in physical memory. size: how long it is.
    """

    offset: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class PhysicalRange:
    """A piece of the host's physical memory.

    address: where it begins. size: its bytes.
    """

    address: int
    size: int


def joined(runs: Iterable[PhysicalRun]) -> tuple[PhysicalRun, ...]:
    """The runs in their order, of which those that follow each other in both memories are one run."""
    whole: list[PhysicalRun] = []
    for run in runs:
        last = whole[-1] if whole else None
        if last and (last.offset + last.size, last.address + last.size) == (run.offset, run.address):
            whole[-1] = PhysicalRun(last.offset, last.address, last.size + run.size)
        else:
            whole.append(run)
    return tuple(whole)


@dataclass(frozen=True, slots=True, eq=False)
class _Locked:
    """What a Memory knows of pages that a device may have the addresses of. A MemoryUser.

    offset: where in the memory they begin, in bytes. page_size: bytes of a page. frames: the address of each.
    """

    offset: int
    page_size: int
    frames: tuple[int, ...]

    def iova_of(self, memory: DmaTarget, offset: int, size: int) -> int | None:  # noqa: ARG002 (it is of one memory)
        """The physical address of the first of these bytes that is locked; None if none is."""
        first = max(offset, self.offset)
        if first >= min(offset + size, self.offset + len(self.frames) * self.page_size):
            return None
        page, rest = divmod(first - self.offset, self.page_size)
        return self.frames[page] + rest


class UnsafePhysicalMemory(Resource):
    """Huge pages that stay locked until close(), and their physical addresses. UNSAFE: see pyvfio.noiommu.

    Stop the device before close(). The memory keeps its pages until then: it can be neither discarded nor detached.
    memory: the memory. kernel: the kernel that it is of. offset, size: the part of the memory that is locked, in bytes.
    """

    def __init__(self, memory: Memory, offset: int = 0, size: int | None = None) -> None:
        """Lock size bytes of memory from offset on, by default all, and look up their addresses. They are populated
        already. A failure leaves nothing locked.

        Raises InvalidArgument for memory that is not of huge pages, MemlockExceeded, MemoryUnavailable if a page is
        missing, VfioError without the capability to see addresses (CAP_SYS_ADMIN).
        Source: mlock(2); /proc/self/pagemap, Documentation/admin-guide/mm/pagemap.rst.
        """
        self.memory = memory
        self.kernel = memory.kernel
        self.offset = offset
        self.size = memory.size - offset if size is None else size
        memory.check_range("look up physical addresses", offset, self.size)
        if not memory.kind.is_hugetlb:
            raise InvalidArgument(
                errno.EINVAL,
                "look up physical addresses",
                {"memory": memory},
                "the kernel moves ordinary pages as it likes",
                "Use memory of kind HUGETLB or HUGETLB_ANONYMOUS",
            )
        page = memory.page_size
        if offset < 0 or self.size <= 0 or offset + self.size > memory.size or offset % page or self.size % page:
            raise InvalidArgument(
                errno.EINVAL,
                "look up physical addresses",
                {"offset": offset, "size": self.size},
                f"not whole pages of {page:#_x} bytes inside the memory of {memory.size:#_x} bytes",
            )
        self._view = memory.buffer(offset, self.size)
        try:
            self.kernel.mlock(memory.address + offset, self.size)
        except OSError as error:
            raise self._lock_failure(error) from error
        try:
            self._locked = _Locked(offset, memory.page_size, tuple(self._look_up()))
            memory.hold(self._locked)
            super().__init__()
        except BaseException:
            self.kernel.munlock(memory.address + offset, self.size)
            raise

    def address(self, offset: int) -> int:
        """The physical address of the byte at this offset of the memory. Raises InvalidArgument, ClosedError."""
        self.require_open()
        within = offset - self.offset
        if not 0 <= within < self.size:
            raise InvalidArgument(errno.EINVAL, "physical address", {"offset": offset}, "outside what is locked")
        page, rest = divmod(within, self.memory.page_size)
        return self._locked.frames[page] + rest

    def runs(self) -> tuple[PhysicalRun, ...]:
        """The physical addresses of all that is locked, ascending by offset. Raises ClosedError."""
        self.require_open()
        size = self.memory.page_size
        return joined(
            PhysicalRun(self.offset + index * size, address, size) for index, address in enumerate(self._locked.frames)
        )

    def _look_up(self) -> Iterator[int]:
        """The physical address of each page. Raises MemoryUnavailable, VfioError."""
        page = host_page_size()
        try:
            fd = self.kernel.open("/proc/self/pagemap", os.O_RDONLY)
        except OSError as error:
            raise explain(error, "look up physical addresses", {"file": "/proc/self/pagemap"}) from error
        try:
            for offset in range(self.offset, self.offset + self.size, self.memory.page_size):
                data = self.kernel.pread(fd, 8, (self.memory.address + offset) // page * 8)
                (entry,) = struct.unpack("=Q", data)
                if not entry & _PRESENT:
                    meaning = "no page is there"
                    advice = "Populate the memory first"
                    raise MemoryUnavailable(errno.EFAULT, "physical address", {"offset": offset}, meaning, advice)
                if not entry & _FRAME:
                    meaning = "the kernel shows no physical addresses to this process"
                    raise VfioError(errno.EPERM, "physical address", {}, meaning, "It takes CAP_SYS_ADMIN: run as root")
                yield (entry & _FRAME) * page
        finally:
            self.kernel.close(fd)

    def _lock_failure(self, error: OSError) -> VfioError:
        code, lock = error.errno or errno.EIO, memlock(self.kernel)
        if code in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) and not lock.allows(self.size):
            meaning = f"RLIMIT_MEMLOCK is {lock.limit:#_x} bytes, {lock.charged:#_x} of them are charged"
            advice = f"Raise it to {lock.charged + self.size:#_x} or more: ulimit -l"
            return MemlockExceeded(code, "lock memory", {"size": self.size}, meaning, advice)
        meaning = f"the pages cannot be locked ({os.strerror(code)})"
        return MemoryUnavailable(code, "lock memory", {"size": self.size}, meaning, "Populate the memory first")

    def _release(self) -> None:
        address, size = self.memory.address + self.offset, self.size
        try:
            if not self._inherited:
                self.kernel.munlock(address, size)
        finally:
            self._view.release()
            self.memory.release(self._locked)

    def __repr__(self) -> str:
        return f"<UnsafePhysicalMemory {self.size:#_x}{' closed' if getattr(self, '_closed', True) else ''}>"
