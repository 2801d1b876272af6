"""Dirty tracking of a VFIO container: type1v2 has no help from hardware, so what is mapped is dirty."""

import ctypes
import errno
from contextlib import suppress
from functools import partial

from pyvfio.abi import vfio
from pyvfio.abi.types import Argsz, struct, u32, u64
from pyvfio.dma import DirtyBitmap, DirtyTracking, JoinedBits, MappingSpace, bitmap_size, bits_of, stretches
from pyvfio.errors import ClosedError, NotMapped, VfioError
from pyvfio.explain import explain


@struct
class _GetBitmap(Argsz):
    """A vfio_iommu_type1_dirty_bitmap with a vfio_iommu_type1_dirty_bitmap_get in its data."""

    argsz: u32
    flags: u32
    get: vfio.vfio_iommu_type1_dirty_bitmap_get


@struct
class _UnmapWithBitmap(Argsz):
    """A vfio_iommu_type1_dma_unmap with a vfio_bitmap in its data."""

    argsz: u32
    flags: u32
    iova: u64
    size: u64
    bitmap: vfio.vfio_bitmap


class ContainerDirtyTracking(DirtyTracking):
    """The kernel notes which pages the devices of a container write, until close(). A child of the container.

    type1v2 has no help from hardware: every page that is mapped reads as dirty, always. Container.track_dirty() makes
    it. Source: VFIO_IOMMU_DIRTY_PAGES.
    """

    def __init__(self, space: MappingSpace, fd: int, page_size: int, largest_bitmap: int) -> None:
        """space: the container, and fd its descriptor. page_size: what a bit stands for, in bytes. largest_bitmap: how
        many bytes the largest bitmap has that the kernel fills.

        Raises VfioError where there is no dirty tracking, ClosedError.
        """
        self._fd = fd
        self._kernel = space.kernel
        self._generation = space.generation
        try:
            self._command(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, "start dirty tracking")
            super().__init__(space, space, page_size, largest_bitmap * 8 * page_size)
        except BaseException as error:
            with suppress(VfioError):
                self._command(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, "stop dirty tracking")
            if isinstance(error, VfioError) and error.errno == errno.ENOTTY and not space.is_iommufd:
                raise VfioError(errno.ENOTTY, "start dirty tracking", {}, *_TOO_OLD) from error
            raise

    @property
    def is_on(self) -> bool:
        """Whether the kernel tracks for this object: until it is closed, or the container's last group has left."""
        return not self.closed and self.space.generation == self._generation

    def require_open(self) -> None:
        """Raise ClosedError if tracking has ended: by close(), or with the last group of the container."""
        super().require_open()
        if not self.is_on:
            meaning = "it ended when the last group left the container, and every mapping with it"
            raise ClosedError(errno.EBADF, repr(self), meaning=meaning, advice="track_dirty() again")

    def unmap(self, iova: int, size: int) -> DirtyBitmap:
        """Unmap as unmap_dma does, and return what was written until then: nothing is lost in between.

        Raises NotMapped, ShortUnmap, VfioError as unmap_dma. Source: VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP.
        """
        with self._lock:
            self.require_open()
            self._check_range(iova, size)
            runs = self.space.mappings_in(iova, size)
            if not runs:
                raise NotMapped(errno.ENOENT, "unmap_dma", {"iova": iova, "size": size}, "nothing is mapped there")
            joined = JoinedBits()
            for start, length in stretches(runs, self._largest):
                buffer = ctypes.create_string_buffer(bitmap_size(length, self.page_size))
                self.space.unmap_by(partial(self._unmap, buffer), start, length)
                bits = bits_of(buffer.raw, length, self.page_size)
                joined.add((start - iova) // self.page_size, bits)
            return DirtyBitmap(iova, size, self.page_size, joined.number())

    def _unmap(self, buffer: "ctypes.Array[ctypes.c_char]", iova: int, size: int) -> int:
        argument = _UnmapWithBitmap(flags=vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, iova=iova, size=size)
        argument.bitmap = self._bitmap(buffer)
        self._kernel.ioctl(self._fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        return argument.size

    def _read(self, iova: int, size: int) -> int:
        buffer = ctypes.create_string_buffer(bitmap_size(size, self.page_size))
        argument = _GetBitmap(flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
        argument.get.iova, argument.get.size, argument.get.bitmap = iova, size, self._bitmap(buffer)
        self._ioctl(argument, "read dirty bitmap", {"iova": iova, "size": size})
        return bits_of(buffer.raw, size, self.page_size)

    def _bitmap(self, buffer: "ctypes.Array[ctypes.c_char]") -> vfio.vfio_bitmap:
        return vfio.vfio_bitmap(pgsize=self.page_size, size=len(buffer), data=ctypes.addressof(buffer))

    def _command(self, flag: int, operation: str) -> None:
        self._ioctl(vfio.vfio_iommu_type1_dirty_bitmap(flags=flag), operation, {})

    def _ioctl(self, argument: ctypes.Structure, operation: str, arguments: dict[str, int]) -> None:
        try:
            self._kernel.ioctl(self._fd, vfio.VFIO_IOMMU_DIRTY_PAGES, argument)
        except OSError as error:
            raise explain(error, operation, arguments, _MEANINGS) from error

    def _release(self) -> None:
        # What the IOMMU's driver was told to do ends with the last group. Another tracking may be on by now.
        if self._inherited or self.space.generation != self._generation:
            return
        try:
            self._command(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, "stop dirty tracking")
        except VfioError as error:
            # Only a container without an IOMMU refuses: its last group has left unseen, in another process.
            if error.errno != errno.EINVAL:
                raise


_TOO_OLD = ("this kernel has no dirty tracking", "Linux 5.8 and later have")
_MEANINGS = {
    errno.EACCES: ("type1 has no dirty tracking", "Open the container as type1v2"),
    errno.ENOTTY: (
        "iommufd's compatibility has no dirty tracking",
        "Use an Ioas, and a page table that tracks: Ioas.page_table(device, dirty_tracking=True)",
    ),
    errno.EINVAL: (
        "tracking was stopped, or the mappings changed, through another copy of the descriptor",
        "Have one process track",
    ),
    errno.ENOMEM: ("no memory left for the bitmaps: a bit for every page that is mapped", "Track less at a time"),
}
