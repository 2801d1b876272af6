"""SharedMemory: a part of somebody else's file, such as the memory of a guest that another process runs."""

from __future__ import annotations

import errno

from pyvfio.abi import mman
from pyvfio.errors import MemoryUnavailable, StillMapped, VfioError
from pyvfio.kernel import Kernel, LinuxKernel, host_page_size
from pyvfio.memory.memory import Memory, MemoryKind


class SharedMemory(Memory):
    """Memory whose pages are those of a file, from attach() until detach().

    The addresses stay the same whatever is attached, so that DMA mappers and blocks need not know. Without a file there
    is nothing to populate or touch, and nothing to discard. Whoever owns the file must not shorten it: touching what is
    gone kills the process (SIGBUS), which F_SEAL_SHRINK rules out.
    """

    def __init__(self, size: int, *, page_size: int | None = None, kernel: Kernel | None = None) -> None:
        """page_size: of the files to be attached, in bytes (default: the host's)."""
        page_size = page_size or host_page_size()
        kind = MemoryKind.MEMFD if page_size == host_page_size() else MemoryKind.HUGETLB
        super().__init__(kernel or LinuxKernel(), kind, size, page_size if kind.is_hugetlb else None)

    @property
    def attached(self) -> bool:
        return self.fd is not None

    def attach(self, fd: int, offset: int = 0) -> None:
        """Be the file fd from offset, a multiple of the file's page size. fd is the memory's own from now on.

        Raises StillMapped while any of it is mapped for DMA, with nothing changed; VfioError if the kernel refuses:
        nothing is attached then, and fd is still the caller's.
        """
        self.detach()
        with self._lock:
            flags = mman.MAP_SHARED | mman.MAP_FIXED | mman.MAP_NORESERVE
            try:
                self.kernel.mmap(self.size, mman.PROT_READ | mman.PROT_WRITE, flags, fd, offset, self.address)
            except OSError as error:
                # The kernel may have taken the address space away before it refused.
                self._reserve(self.address)
                arguments = {"offset": offset, "size": self.size}
                raise VfioError(error.errno or errno.EIO, "attach memory", arguments) from error
            self.fd = fd
            self._file_offset = offset

    def detach(self) -> None:
        """Be nothing again, and close the file. Raises StillMapped while any of it is mapped for DMA."""
        with self._lock:
            self._check_open()
            if self._users:
                raise StillMapped(
                    errno.EBUSY, "detach memory", meaning="devices still reach it", advice="Unmap it first"
                )
            if self.fd is not None:
                self._reserve(self.address)
                fd, self.fd = self.fd, None
                self.kernel.close(fd)

    def _map(self) -> int:
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        return self._map_aligned(mman.PROT_NONE, flags, self.page_size)

    def _reserve(self, address: int) -> None:
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE | mman.MAP_FIXED
        self.kernel.mmap(self.size, mman.PROT_NONE, flags, address=address)

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        if self.fd is None:
            raise MemoryUnavailable(
                errno.ENXIO, "populate", {"offset": offset, "size": size}, "no file is attached to the memory"
            )
        super().populate(offset, size, threads=threads)

    def __repr__(self) -> str:
        state = "closed" if getattr(self, "_closed", True) else "attached" if self.attached else "detached"
        return f"<SharedMemory {self.size:#_x} {state}>"
