"""SharedMemory: a part of a file of another process, such as the memory of a guest."""

from __future__ import annotations

import errno

from pyvfio.abi import mman
from pyvfio.errors import MemoryUnavailable, StillMapped, VfioError
from pyvfio.kernel import Kernel, LinuxKernel, host_page_size
from pyvfio.memory.memory import Memory, MemoryKind


class SharedMemory(Memory):
    """Memory whose pages are those of a file, from attach() until detach().

    Its address stays the same whichever file is attached. Without a file there is nothing to populate, to touch or to
    discard. The owner of the file must not shorten it: touching a page that is gone kills the process (SIGBUS). A file
    with F_SEAL_SHRINK cannot be shortened.
    """

    def __init__(self, size: int, *, page_size: int | None = None, kernel: Kernel | None = None) -> None:
        """Reserve size bytes of address space, with no file attached.

        page_size: bytes of a page of the files that will be attached; None for the host's page size. kernel: None for
        the running one. Raises InvalidArgument for a size that is not a multiple of it, MemoryUnavailable.
        """
        page_size = page_size or host_page_size()
        kind = MemoryKind.MEMFD if page_size == host_page_size() else MemoryKind.HUGETLB
        super().__init__(kernel or LinuxKernel(), kind, size, page_size if kind.is_hugetlb else None)

    @property
    def attached(self) -> bool:
        """Whether a file is attached."""
        return self.fd is not None

    def attach(self, fd: int, offset: int = 0) -> None:
        """Have the pages of the file fd, from offset on, in place of those of the file before.

        offset: bytes, a multiple of the file's page size. The memory takes fd over. Raises StillMapped while some of
        the memory is mapped for DMA, with nothing changed; VfioError if the kernel refuses: then nothing is attached,
        and fd is still the caller's.
        """
        with self._lock:
            self.detach()
            flags = mman.MAP_SHARED | mman.MAP_FIXED | mman.MAP_NORESERVE
            try:
                self.kernel.mmap(self.size, mman.PROT_READ | mman.PROT_WRITE, flags, fd, offset, self.address)
            except OSError as error:
                # The kernel may have taken the address space away before it refused.
                self._reserve(self.address)
                arguments = {"offset": offset, "size": self.size}
                raise VfioError(error.errno or errno.EIO, "attach memory", arguments) from error
            self.fd = fd
            self.file_offset = offset

    def detach(self) -> None:
        """Have no pages any more, and close the file. Without a file this does nothing.

        Raises StillMapped, with nothing changed, while some of the memory is mapped for DMA.
        """
        with self._lock:
            self.require_open()
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
        """Keep the address space, without pages. Raises OSError."""
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE | mman.MAP_FIXED
        self.kernel.mmap(self.size, mman.PROT_NONE, flags, address=address)

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        """Have the host give every page of the range, without changing what the memory holds.

        As Memory.populate, and raises MemoryUnavailable (ENXIO) too if no file is attached.
        """
        if self.fd is None:
            raise MemoryUnavailable(
                errno.ENXIO, "populate", {"offset": offset, "size": size}, "no file is attached to the memory"
            )
        super().populate(offset, size, threads=threads)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "attached" if self.attached else "detached"
        return f"<SharedMemory {self.size:#_x} {state}>"
