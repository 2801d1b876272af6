"""SharedMemory: a part of a file of another process, such as the memory of a guest."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.abi import mman
from pyvfio.errors import MemoryUnavailable, StillMapped, VfioError
from pyvfio.kernel import Kernel, LinuxKernel, host_page_size
from pyvfio.memory.kinds import MemoryKind
from pyvfio.memory.memory import Memory


class SharedMemory(Memory):
    """Memory whose pages are those of a file, from attach() until detach().

    Its address stays the same whichever file is attached. Without a file there is nothing to populate, to touch or to
    discard. The owner of the file must not shorten it: touching a page that is gone kills the process (SIGBUS). A file
    with F_SEAL_SHRINK cannot be shortened.

    A buffer() does not keep the file attached, because a peer that goes must be let go: a view that outlives detach()
    reads zeros from then on, and what is written to it nobody sees. It never comes to be a view of another file: none
    is attached before it is released.
    """

    def __init__(self, size: int, *, page_size: int | None = None, kernel: Kernel | None = None) -> None:
        """Reserve size bytes of address space, with no file attached.

        page_size: bytes of a page of the files that will be attached; None for the host's page size. kernel: None for
        the running one. Raises InvalidArgument for a size that is not a multiple of it, MemoryUnavailable.
        """
        self._shows_zeros = False
        page_size = page_size or host_page_size()
        kind = MemoryKind.MEMFD if page_size == host_page_size() else MemoryKind.HUGETLB
        self._keeps_pages = 0
        super().__init__(kernel or LinuxKernel(), kind, size, page_size if kind.is_hugetlb else None)

    @property
    def attached(self) -> bool:
        """Whether a file is attached."""
        return self.fd is not None

    @property
    def has_own_file(self) -> bool:
        """False: it may be a file of any kind."""
        return False

    def attach(self, fd: int, offset: int = 0) -> None:
        """Have the pages of the file fd, from offset on, in place of those of the file before.

        offset: bytes, a multiple of the file's page size. The memory takes fd over; it may be that of the file before,
        for another part of it. Raises StillMapped while some of
        the memory is mapped for DMA, and VfioError (EBUSY) while there is a buffer() of a file before; nothing has
        changed then. Raises VfioError if the kernel refuses: then nothing is attached, and fd is still the caller's.
        """
        with self._lock:
            self.require_open()
            if self._holds:
                raise VfioError(
                    errno.EBUSY,
                    "attach memory",
                    meaning=f"{len(self._holds)} buffers of what was attached before are in use",
                    advice="Release them first: they would come to show the new file",
                )
            self._require_unmapped("attach memory")
            before, self.fd = self.fd, None
            flags = mman.MAP_SHARED | mman.MAP_FIXED | mman.MAP_NORESERVE
            try:
                self.kernel.mmap(self.size, mman.PROT_READ | mman.PROT_WRITE, flags, fd, offset, self.address)
            except OSError as error:
                # The kernel may have taken the address space away before it refused.
                self._reserve(self.address)
                arguments = {"offset": offset, "size": self.size}
                raise VfioError(error.errno or errno.EIO, "attach memory", arguments) from error
            finally:
                # Last, as it may be the same one again: it is the caller's then.
                if before is not None and before != fd:
                    self.kernel.close(before)
            self.fd = fd
            self.file_offset = offset

    def detach(self) -> None:
        """Have no pages any more, and close the file. Without a file this does nothing. Each buffer() reads zeros then.

        Raises StillMapped, with nothing changed, while some of the memory is mapped for DMA.
        """
        with self._lock:
            self.require_open()
            self._require_unmapped("detach memory")
            if self.fd is not None:
                self._reserve(self.address)
                fd, self.fd = self.fd, None
                self.kernel.close(fd)

    def _require_unmapped(self, operation: str) -> None:
        if self._users:
            raise StillMapped(errno.EBUSY, operation, meaning="devices still reach it", advice="Unmap it first")

    def refusal(self, code: int) -> tuple[str, str] | None:
        """As for every DmaTarget: that no file is attached."""
        if code in (errno.EFAULT, errno.EINVAL) and self.fd is None:
            return "no file is attached to the memory", "attach() one first"
        return super().refusal(code)

    @contextmanager
    def pages_kept(self) -> Iterator[None]:
        """For the length of a with block, or of several at once, discard() leaves the pages to the file: they are its
        owner's to give back."""
        with self._lock:
            self._keeps_pages += 1
        try:
            yield
        finally:
            with self._lock:
                self._keeps_pages -= 1

    def keep_pages(self) -> None:
        """As within pages_kept() from now on, until close(): whoever uses the memory is about to leave it."""
        with self._lock:
            self._keeps_pages += 1

    def discard(self, offset: int, size: int) -> None:
        """As Memory.discard, but that nothing is given back within pages_kept()."""
        # Held, so that no other file comes, whose pages are kept, between the look and what follows of it.
        with self._lock:
            if self._keeps_pages:
                self.check_range("discard", offset, size)
            else:
                super().discard(offset, size)

    def reclaim(self, offset: int, size: int) -> int:
        """As Memory.reclaim; nothing is given back without a file, nor within pages_kept()."""
        with self._lock:
            return 0 if self._keeps_pages or self.fd is None else super().reclaim(offset, size)

    def _map(self) -> int:
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        return self._map_aligned(mman.PROT_NONE, flags, self.page_size)

    def _reserve(self, address: int) -> None:
        """Keep the address space, without a file: with zeros while somebody has a view, else empty. Raises OSError."""
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE | mman.MAP_FIXED
        protection = mman.PROT_READ | mman.PROT_WRITE if self._holds else mman.PROT_NONE
        self.kernel.mmap(self.size, protection, flags, address=address)
        self._shows_zeros = protection != mman.PROT_NONE

    def _require_pages(self, operation: str) -> None:
        super()._require_pages(operation)
        if self.fd is None:
            raise MemoryUnavailable(errno.ENXIO, operation, {}, "no file is attached to the memory")

    @property
    def _is_kept_by_holds(self) -> bool:
        return self._closed or self._shows_zeros

    def _unheld(self) -> None:
        with self._lock:
            if self._shows_zeros and not self._holds and not self._closed:
                self._reserve(self.address)
        super()._unheld()

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        """Have the host give every page of the range, without changing what the memory holds.

        As Memory.populate, and raises MemoryUnavailable (ENXIO) too if no file is attached.
        """
        super().populate(offset, size, threads=threads)

    def resident(self, offset: int, size: int) -> int:
        """How many bytes of the range have a page in memory: none if no file is attached. As Memory.resident."""
        self.check_range("resident", offset, size, unit=host_page_size())
        return 0 if self.fd is None else super().resident(offset, size)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "attached" if self.attached else "detached"
        return f"<SharedMemory {self.size:#_x} {state}>"
