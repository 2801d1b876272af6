"""BarMemory: a BAR of one device as the target of another device's DMA."""

from __future__ import annotations

import errno

from pyvfio.abi import mman
from pyvfio.device.features import Features
from pyvfio.device.region import Region
from pyvfio.device.region_info import MmapArea, RegionFlags
from pyvfio.errors import FeatureUnsupported, InvalidArgument, VfioError
from pyvfio.kernel import host_page_size
from pyvfio.memory import DmaTarget


class BarMemory(DmaTarget):
    """A part of a BAR that other devices can be let reach by map_dma(), peer to peer. It is a child of the region.

    A container of type1 takes it by its address; an Ioas as a dma-buf, from Linux 7.0 on where the kernel is built with
    peer-to-peer DMA; a container of iommufd's compatibility not at all. Registers are no memory: nothing is
    pinned, charged, populated or discarded, and this program reaches them by the region.

    The device stays open in the kernel until its registers are unmapped everywhere, even if its object is closed.
    Map it while the device decodes memory. While it does not, or is reset, DMA to it goes nowhere. In a container that
    is over with the state of the device; an Ioas has lost the mapping then, although mappings() still lists it: unmap
    it, and map it again.

    region: whose part it is. offset: where in the region it begins, in bytes.
    """

    def __init__(self, region: Region, offset: int = 0, size: int | None = None) -> None:
        """offset, size: bytes, whole pages of the host; size None for all from offset on.

        Raises InvalidArgument for a part that the region's mmap_areas do not have, ClosedError, VfioError.
        Source: mmap of the device's file; VFIO_DEVICE_FEATURE_DMA_BUF.
        """
        region.require_open()
        self.region = region
        self.kernel = region.kernel
        self.offset = offset
        self.size = region.size - offset if size is None else size
        self.file_offset = 0
        self.fd: int | None = None
        arguments = {"offset": offset, "size": self.size}
        page = host_page_size()
        if offset < 0 or self.size <= 0 or (offset | self.size) % page or not self._is_mappable():
            areas = ", ".join(f"{area.offset:#_x}-{area.offset + area.size - 1:#_x}" for area in region.info.mmap_areas)
            meaning = f"only whole pages of {page:#_x} in what can be mapped of the BAR: {areas or 'nothing'}"
            raise InvalidArgument(errno.EINVAL, self._name, arguments, meaning)
        protection = mman.PROT_READ if region.info.flags & RegionFlags.READ else mman.PROT_NONE
        protection |= mman.PROT_WRITE if region.info.flags & RegionFlags.WRITE else mman.PROT_NONE
        place = region.info.offset + offset
        with region.device.descriptor.in_use() as fd:
            try:
                self.address = self.kernel.mmap(self.size, protection, mman.MAP_SHARED, fd, place)
            except OSError as error:
                raise VfioError(error.errno or errno.EIO, self._name, arguments) from error
        try:
            self.fd = self._dma_buf()
            super().__init__(region)
        except BaseException:
            self._give_back()
            raise

    @property
    def is_pinnable(self) -> bool:
        """False: registers are no memory."""
        return False

    def refusal(self, code: int) -> tuple[str, str] | None:
        answering = self.region.device.answering
        match code:
            case errno.EFAULT | errno.ENODEV if not answering:
                meaning, advice = answering.silence
                return meaning, f"{advice}; then map it"
            case errno.EFAULT:
                meaning = "the device does not decode memory, or the container is iommufd's, which takes no registers"
                return meaning, "Map it in a container of type1, or in an Ioas, while the device decodes memory"
            case errno.ENODEV | errno.EOPNOTSUPP | errno.EINVAL if self.fd is not None:
                meaning = "this kernel's iommufd takes no dma-buf of registers, or the device does not answer just now"
                return meaning, "Linux 7.0 does; a container of type1 takes registers on every kernel"
            case _:
                return None

    def _is_mappable(self) -> bool:
        end = self.offset + self.size
        return any(
            area.offset <= self.offset and end <= area.offset + area.size for area in self.region.info.mmap_areas
        )

    def _dma_buf(self) -> int | None:
        """A dma-buf of the part; None where the kernel, or the device now, gives none."""
        features = Features(self.region.device)
        try:
            return features.dma_buf(self.region.info.index, MmapArea(self.offset, self.size))
        except FeatureUnsupported:
            return None
        except VfioError as error:
            # A kernel without peer-to-peer DMA for this device. Its registers can be mapped by address all the same.
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise

    def _free_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._users and self.address:
                self._give_back()

    def _give_back(self) -> None:
        """Unmap it, and close the dma-buf. Raises OSError."""
        address, self.address = self.address, 0
        fd, self.fd = self.fd, None
        try:
            self.kernel.munmap(address, self.size)
        finally:
            if fd is not None:
                self.kernel.close(fd)

    @property
    def _name(self) -> str:
        return f"region {self.region.info.index} of {self.region.device.address} for DMA"

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<BarMemory {self.size:#_x} at {self.offset:#_x} of {self.region!r}{state}>"
