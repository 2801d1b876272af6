"""DMA without an IOMMU: physical addresses, for who insists. UNSAFE.

Nothing stops a device that is handed a physical address from writing anywhere in the host's memory, by a mistake of
the program or of the device. And an address is good only as long as the kernel leaves the page where it is: it promises
that for no page of a process. Huge pages that are locked are not swapped and hardly ever moved, which is why
UnsafePhysicalMemory takes no others. Memory of any kind stays where it is while iommufd has it pinned: from Linux 7.3
on, for a device opened with unsafe_noiommu, Ioas.physical_range() tells where. With an IOMMU, or a virtual one, use
Container or Ioas without any of this instead.

A kernel that lets a device without an IOMMU be used says so for good: it is tainted (the U of "Tainted: ... U ..." in
its log, bit 6 of /proc/sys/kernel/tainted) from the moment such a device is bound to a VFIO driver until it is booted
anew, and those who maintain it may not look at what goes wrong then.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvfio.errors import InvalidArgument, MemlockExceeded, MemoryUnavailable, NoIommuError, VfioError
from pyvfio.kernel import host_page_size, memlock
from pyvfio.memory import Memory
from pyvfio.resource import Resource

ENABLE = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
"""Root writes 1 to it before binding a device that has no IOMMU: then VFIO takes it, and taints the kernel."""

_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1


@dataclass(frozen=True, slots=True)
class PhysicalRun:
    """size bytes of memory, from offset, that lie at address in the host's physical memory."""

    offset: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class PhysicalRange:
    """size bytes that lie one behind the other from address on in the host's physical memory."""

    address: int
    size: int


def joined(runs: Iterable[PhysicalRun]) -> tuple[PhysicalRun, ...]:
    """Those that lie one behind the other in both as one."""
    whole: list[PhysicalRun] = []
    for run in runs:
        last = whole[-1] if whole else None
        if last and (last.offset + last.size, last.address + last.size) == (run.offset, run.address):
            whole[-1] = PhysicalRun(last.offset, last.address, last.size + run.size)
        else:
            whole.append(run)
    return tuple(whole)


class UnsafePhysicalMemory(Resource):
    """Physical addresses of huge pages that stay locked until close(). UNSAFE: see the module.

    The memory must stay open as long; a device must have been stopped before close().
    """

    def __init__(self, memory: Memory, offset: int = 0, size: int | None = None) -> None:
        """Lock the range, whose pages are populated, and look their addresses up. A failure leaves nothing locked.

        Raises InvalidArgument for memory that is not of huge pages, MemlockExceeded, MemoryUnavailable where a page
        is missing, VfioError without the capability to see addresses (CAP_SYS_ADMIN).
        Source: mlock(2); /proc/self/pagemap, Documentation/admin-guide/mm/pagemap.rst.
        """
        self.memory = memory
        self.kernel = memory.kernel
        self.offset = offset
        self.size = memory.size - offset if size is None else size
        memory._check_range("look up physical addresses", offset, self.size)
        if not memory.kind.is_hugetlb:
            raise InvalidArgument(
                errno.EINVAL,
                "look up physical addresses",
                {"memory": memory},
                "the kernel moves ordinary pages as it likes",
                "Use memory of kind HUGETLB or HUGETLB_ANONYMOUS",
            )
        self._view = memory.buffer(offset, self.size)
        try:
            self.kernel.mlock(memory.address + offset, self.size)
        except OSError as error:
            raise self._lock_failure(error) from error
        try:
            self._frames = tuple(self._look_up())
            super().__init__()
        except BaseException:
            self.kernel.munlock(memory.address + offset, self.size)
            raise

    def address(self, offset: int) -> int:
        """The physical address of the byte at this offset of the memory."""
        self._check_open()
        within = offset - self.offset
        if not 0 <= within < self.size:
            raise InvalidArgument(errno.EINVAL, "physical address", {"offset": offset}, "outside what is locked")
        page, rest = divmod(within, self.memory.page_size)
        return self._frames[page] + rest

    def runs(self) -> tuple[PhysicalRun, ...]:
        """The whole, with pages that lie one behind the other as one run."""
        self._check_open()
        size = self.memory.page_size
        return joined(
            PhysicalRun(self.offset + index * size, address, size) for index, address in enumerate(self._frames)
        )

    def _look_up(self) -> Iterator[int]:
        page = host_page_size()
        fd = self.kernel.open("/proc/self/pagemap", os.O_RDONLY)
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
        self._view.release()
        if not self._inherited:
            self.kernel.munlock(address, size)

    def __repr__(self) -> str:
        return f"<UnsafePhysicalMemory {self.size:#_x}{' closed' if getattr(self, '_closed', True) else ''}>"


def not_asked_for(operation: str) -> NoIommuError:
    """Why a device without an IOMMU is not opened by its node unless the program asks for that."""
    return NoIommuError(
        errno.EPERM,
        operation,
        meaning="there is no IOMMU behind it: the kernel would map memory, but what the device is told as an address "
        "would be one of physical memory, anywhere in the host",
        advice="Turn the IOMMU on (intel_iommu=on, amd_iommu=on), or give the machine a virtual one; who insists says "
        "unsafe_noiommu=True, and gives the device only what Ioas.physical_range() tells",
    )


def no_raw_io(operation: str) -> VfioError:
    """Why something of a device without an IOMMU is refused with EPERM."""
    return VfioError(
        errno.EPERM,
        operation,
        meaning="a device without an IOMMU reaches all of the host's memory, so the kernel wants CAP_SYS_RAWIO",
        advice="Run it as root",
    )


def no_iommu(operation: str) -> NoIommuError:
    """Why operation is refused in a container without an IOMMU, and what there is instead."""
    return NoIommuError(
        errno.ENOTTY,
        operation,
        meaning="there is no IOMMU behind this device, so the kernel maps no memory for it: "
        "its DMA goes to physical addresses, anywhere in the host",
        advice="Turn the IOMMU on (intel_iommu=on, amd_iommu=on), or give the machine a virtual one; who insists finds "
        "the physical addresses of locked huge pages with pyvfio.noiommu, which is unsafe",
    )
