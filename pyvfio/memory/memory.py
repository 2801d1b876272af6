"""Memory: address space of this process for devices to reach, populated and discarded piece by piece."""

from __future__ import annotations

import ctypes
import errno
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from pyvfio.abi import mman
from pyvfio.errors import InvalidArgument, StillMapped, VfioError
from pyvfio.kernel import Kernel, LinuxKernel, host_page_size, octets_of, transparent_huge_page_size
from pyvfio.lifetime import drop
from pyvfio.memory.kinds import HUGE_PAGE_SIZE, MemoryKind, page_size_of
from pyvfio.memory.target import DmaTarget
from pyvfio.memory.unavailable import MOST_INTERRUPTIONS, unavailable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LARGEST = sys.maxsize + 1 - (1 << 30)
"""The bytes of the largest memory that the kernel can be asked for, in pages of any size."""
_LOWEST_BITS = bytes(entry & 1 for entry in range(256))


class Memory(DmaTarget):
    """Address space of this process for devices to reach. Offsets and sizes are bytes and multiples of page_size.

    The host gives a page when it is populated or touched. After close() the pages go back as soon as no MemoryUser and
    no buffer() uses them any more. They stay until then, so that a device never reaches a page of somebody else.

    A child that this process forks finds zeros in place of memory of the kinds without a file, and in place of
    HUGETLB_ANONYMOUS nothing: touching that ends the child (SIGSEGV). Else the kernel would copy every pinned page
    while it forks, the whole of a guest's memory (Linux 5.9 and later), or leave devices on pages that this process
    loses with its next write (before). Memory with a file is the child's too. A view that the child has inherited is
    all that it can use: the methods raise ClosedError there. Source: MADV_WIPEONFORK, MADV_DONTFORK.

    kernel: the kernel that the memory is from. kind: what its pages are. size: bytes. page_size: bytes of a page.
    address: where it begins in this process; 0 once its pages have gone back. fd: the descriptor of its file; None for
    memory without a file. file_offset: where in the file the memory begins, in bytes.
    """

    @classmethod
    def allocate(
        cls,
        kind: MemoryKind,
        size: int,
        *,
        page_size: int | None = None,
        kernel: Kernel | None = None,
    ) -> Self:
        """Reserve size bytes of address space.

        page_size: bytes of a huge page, for hugetlb kinds; None for 2 MiB. kernel: None for the running one.
        Raises InvalidArgument for a size that is not a multiple of the page size, MemoryUnavailable if the kernel
        refuses, VfioError if this process may open no more files. A failure leaves nothing reserved.
        """
        return cls(kernel or LinuxKernel(), kind, size, page_size)

    def __init__(self, kernel: Kernel, kind: MemoryKind, size: int, page_size: int | None = None) -> None:
        """Reserve size bytes of address space.

        page_size: bytes of a huge page, for hugetlb kinds; None for 2 MiB.
        Raises InvalidArgument for a size that is not a multiple of the page size, MemoryUnavailable if the kernel
        refuses. A failure leaves nothing reserved.
        """
        self.kernel = kernel
        self.kind = kind
        self.size = size
        self.page_size = page_size_of(kind, page_size)
        self.fd: int | None = None
        self.file_offset = 0
        self._holds: list[object] = []
        if not 0 < size <= _LARGEST or size % self.page_size:
            raise InvalidArgument(
                errno.EINVAL,
                "allocate memory",
                {"size": size},
                f"not a positive multiple of the page size {self.page_size:#_x}",
                f"The next size that fits is {-(-min(max(size, 1), _LARGEST) // self.page_size) * self.page_size:#_x}",
            )
        try:
            self.address = self._map()
        except OSError as error:
            raise unavailable(error, self, "allocate memory", 0, size) from error
        super().__init__()

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        """Have the host give every page of the range, without changing what the memory holds.

        threads: how many threads share the work; each has a part of whole huge pages. Where no more are to be had the
        caller's does the rest. A failure may leave a part of the range populated: discard it to give that back.
        Raises InvalidArgument, MemoryUnavailable.
        Source: MADV_POPULATE_WRITE, Linux 5.14; mm/madvise.c, madvise_populate.
        """
        self.check_range("populate", offset, size)
        with self._held("populate"):
            self._populate_all(offset, size, threads)

    def _populate_all(self, offset: int, size: int, threads: int) -> None:
        unit = max(HUGE_PAGE_SIZE, self.page_size)
        step = -(-size // max(threads, 1) // unit) * unit or size
        parts = [(start, min(step, offset + size - start)) for start in range(offset, offset + size, step)]
        try:
            if len(parts) == 1:
                self._populate(offset, size)
            else:
                with ThreadPoolExecutor(len(parts)) as pool:
                    for done in [_submit(pool, self._populate, *part) for part in parts]:
                        done.result()
        except OSError as error:
            raise unavailable(error, self, "populate", offset, size) from error

    def discard(self, offset: int, size: int) -> None:
        """Give the pages of the range back to the host. The range reads as zeros from now on.

        Raises InvalidArgument, StillMapped if some of it is mapped for DMA, VfioError if the kernel refuses. A failure
        changes nothing.
        Source: FALLOC_FL_PUNCH_HOLE for files, MADV_DONTNEED otherwise.
        """
        self.check_range("discard", offset, size)
        with self._lock:
            for user in self._users:
                iova = user.iova_of(self, offset, size)
                if iova is not None:
                    raise StillMapped(
                        errno.EBUSY,
                        "discard",
                        {"offset": offset, "size": size},
                        f"a device still reaches it at iova {iova:#_x}",
                        "Unmap first: pages discarded under a mapping stay the device's, and the CPU gets others",
                    )
            try:
                if self.fd is None:
                    self.kernel.madvise(self.address + offset, size, mman.MADV_DONTNEED)
                else:
                    mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
                    self.kernel.fallocate(self.fd, mode, self.file_offset + offset, size)
            except OSError as error:
                raise VfioError(error.errno or errno.EIO, "discard", {"offset": offset, "size": size}) from error

    def reclaim(self, offset: int, size: int) -> int:
        """Discard what has pages of a range that should have none; return how many bytes that were.

        Holes of a file are passed over, so that it is quick. Of a file of huge pages, whose holes the kernel does not
        tell, it is how much less the file takes afterwards, which is wrong if others change it meanwhile. Raises what
        discard() raises, and OSError if the kernel does not tell.
        """
        self.check_range("reclaim", offset, size)
        if self.fd is None:
            found = self.resident(offset, size)
            if found:
                self.discard(offset, size)
            return found
        if self.page_size != host_page_size():
            before = self.kernel.allocated(self.fd)
            self.discard(offset, size)
            return max(before - self.kernel.allocated(self.fd), 0)
        found = 0
        position, end, page = self.file_offset + offset, self.file_offset + offset + size, self.page_size
        while position < end and (data := self.kernel.next_data(self.fd, position)) and data[0] < end:
            # A file system may be somebody's program, and answer anything.
            start, behind = max(data[0] // page * page, position), -(-min(data[1], end) // page) * page
            if behind <= start:
                break
            self.discard(start - self.file_offset, behind - start)
            found, position = found + behind - start, behind
        return found

    def resident(self, offset: int, size: int) -> int:
        """How many bytes of the range have a page in memory. The range is whole pages of the host's page size.

        Raises InvalidArgument. Source: mincore(2).
        """
        self.check_range("resident", offset, size, unit=host_page_size())
        with self._held("resident"):
            # The other bits of an entry are reserved.
            entries = self.kernel.mincore(self.address + offset, size).translate(_LOWEST_BITS)
        return entries.count(1) * host_page_size()

    def is_populated(self, offset: int, size: int) -> bool:
        with suppress(OSError):
            return self.resident(offset, size) == size
        return False

    def buffer(self, offset: int = 0, size: int | None = None) -> memoryview:
        """A view of size bytes from offset on, or of all that follow, which reads and writes the memory itself.

        offset and size may be of any alignment. The pages stay as long as the view lives. Touching a hugetlb page that
        is not populated kills the process (SIGBUS) when the host has none left. Raises InvalidArgument.
        """
        size = self.size - offset if size is None else size
        self.check_range("buffer", offset, size, unit=1)
        hold = self._hold("buffer")
        try:
            array = (ctypes.c_ubyte * size).from_address(self.address + offset)
            weakref.finalize(array, self._drop, hold).atexit = False
        except BaseException:
            self._drop(hold)
            raise
        return memoryview(array).cast("B")

    def read(self, offset: int, size: int) -> bytes:
        """A copy of size bytes from offset on, of any alignment. Raises InvalidArgument."""
        with self._lock:
            # What most calls need of check_range(), without the call.
            if not 0 <= offset < offset + size <= self.size:
                self.check_range("read", offset, size, unit=1)
            self._require_pages("read")
            return ctypes.string_at(self.address + offset, size)

    def write(self, offset: int, data: ReadableBuffer) -> None:
        """Write the bytes of data to the memory from offset on, of any alignment. Raises InvalidArgument.

        data: bytes, or any other contiguous buffer, whatever its items are.
        """
        content = data if type(data) is bytes else bytes(octets_of(data))
        size = len(content)
        with self._lock:
            if not 0 <= offset < offset + size <= self.size:
                self.check_range("write", offset, size, unit=1)
            self._require_pages("write")
            ctypes.memmove(self.address + offset, content, size)

    def _map(self) -> int:
        """Reserve the address space, and open the file if there is one; return the address. Raises OSError."""
        protection = mman.PROT_READ | mman.PROT_WRITE
        private = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        huge = (self.page_size.bit_length() - 1) << mman.MAP_HUGE_SHIFT if self.kind.is_hugetlb else 0
        match self.kind:
            case MemoryKind.ANONYMOUS:
                address = self.kernel.mmap(self.size, protection, private)
                self._advise(address, mman.MADV_NOHUGEPAGE)
                return self._keep_from_children(address, mman.MADV_WIPEONFORK)
            case MemoryKind.THP:
                alignment = transparent_huge_page_size(self.kernel) or self.page_size
                address = self._map_aligned(protection, private, alignment)
                self._advise(address, mman.MADV_HUGEPAGE)
                return self._keep_from_children(address, mman.MADV_WIPEONFORK)
            case MemoryKind.HUGETLB_ANONYMOUS:
                address = self.kernel.mmap(self.size, protection, private | mman.MAP_HUGETLB | huge)
                return self._keep_from_children(address, mman.MADV_DONTFORK)
            case _:
                flags = mman.MFD_CLOEXEC | (mman.MFD_HUGETLB | huge if huge else 0)
                self.fd = self.kernel.memfd_create("pyvfio", flags)
                try:
                    self.kernel.ftruncate(self.fd, self.size)
                    return self.kernel.mmap(self.size, protection, mman.MAP_SHARED | mman.MAP_NORESERVE, self.fd)
                except OSError:
                    self.kernel.close(self.fd)
                    raise

    def _map_aligned(self, protection: int, flags: int, alignment: int) -> int:
        """Reserve address space that begins at a multiple of alignment; return the address. Raises OSError."""
        start = self.kernel.mmap(self.size + alignment, protection, flags)
        address = -(-start // alignment) * alignment
        end = start + self.size + alignment
        try:
            for surplus, surplus_end in ((start, address), (address + self.size, end)):
                if surplus < surplus_end:
                    self.kernel.munmap(surplus, surplus_end - surplus)
        except OSError:
            self.kernel.munmap(start, end - start)
            raise
        return address

    def _advise(self, address: int, advice: int) -> None:
        """Tell the kernel how the memory will be used; unmap it if the kernel refuses. Raises OSError."""
        try:
            self.kernel.madvise(address, self.size, advice)
        except OSError as error:
            # A kernel without transparent huge pages takes no advice on them.
            if error.errno != errno.EINVAL:
                self.kernel.munmap(address, self.size)
                raise

    def _keep_from_children(self, address: int, advice: int) -> int:
        """Let no child that is forked get the pages; return their address. A failure unmaps it. Raises OSError."""
        try:
            self.kernel.madvise(address, self.size, advice)
        except BaseException:
            self.kernel.munmap(address, self.size)
            raise
        return address

    def _populate(self, offset: int, size: int) -> None:
        """Populate a part of the memory. Raises OSError."""
        for left in reversed(range(MOST_INTERRUPTIONS)):
            try:
                self.kernel.madvise(self.address + offset, size, mman.MADV_POPULATE_WRITE)
            except InterruptedError:
                # What was populated stays so: the next try goes on from there.
                if not left:
                    raise
            else:
                return

    def check_range(self, operation: str, offset: int, size: int, unit: int | None = None) -> None:
        """Check that the range lies in the memory and is of whole units. unit: bytes; None for page_size.

        operation: what the range is for, for messages. Raises ClosedError, InvalidArgument.
        """
        self.require_open()
        unit = unit or self.page_size
        arguments = {"offset": offset, "size": size}
        if offset < 0 or size <= 0 or offset + size > self.size:
            meaning = f"outside the memory of {self.size:#_x} bytes" if size else "the range is empty"
            raise InvalidArgument(errno.EINVAL, operation, arguments, meaning)
        if offset % unit or size % unit:
            raise InvalidArgument(
                errno.EINVAL, operation, arguments, f"offset and size must be multiples of {unit:#_x}"
            )

    def _require_pages(self, operation: str) -> None:  # noqa: ARG002 (for SharedMemory)
        """Raise ClosedError if there are no pages for operation. They stay while the caller has the lock."""
        self.require_open()

    def _hold(self, operation: str) -> object:
        """Keep the pages for operation, without the lock, until _drop() of the result. Raises what _require_pages
        raises."""
        with self._lock:
            self._require_pages(operation)
            hold = object()
            self._holds.append(hold)
            return hold

    @contextmanager
    def _held(self, operation: str) -> Iterator[None]:
        """Keep the pages within the block: closing the memory in another thread gives them back after it."""
        hold = self._hold(operation)
        try:
            yield
        finally:
            self._holds.remove(hold)
            self._unheld()

    def _drop(self, hold: object) -> None:
        """Note that a buffer() is gone. Python calls it wherever it likes."""
        self._holds.remove(hold)
        if self._is_kept_by_holds:
            drop(self, self._unheld, warn=False)

    @property
    def _is_kept_by_holds(self) -> bool:
        """Whether there is something to do when the last buffer() is gone."""
        return self._closed

    def _unheld(self) -> None:
        """Do what waited for the last buffer()."""
        self._free_if_unused()

    def _free_if_unused(self) -> None:
        with self._lock:
            if not self._closed or self._holds or self._users or not self.address:
                return
            address, self.address = self.address, 0
            fd, self.fd = self.fd, None
            try:
                # In a forked child something else may be at the address of what it did not inherit.
                if not (self._inherited and self.kind is MemoryKind.HUGETLB_ANONYMOUS):
                    self.kernel.munmap(address, self.size)
            finally:
                if fd is not None:
                    self.kernel.close(fd)

    def __repr__(self) -> str:
        return f"<Memory {self.kind.value} {self.size:#_x}{' closed' if self._closed else ''}>"


def _submit(pool: ThreadPoolExecutor, work: Callable[[int, int], None], offset: int, size: int) -> Future[None]:
    """Have a thread of the pool do work, or do it here if none can be started. Raises what work raises here."""
    try:
        return pool.submit(work, offset, size)
    except RuntimeError:
        work(offset, size)
        done: Future[None] = Future()
        done.set_result(None)
        return done
