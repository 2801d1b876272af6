"""The type1 IOMMU of a container. Source: drivers/vfio/vfio_iommu_type1.c."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from pyvfio.abi import vfio
from pyvfio.sim.capabilities import capability_chain
from pyvfio.sim.iommu import ALL_PAGE_SIZES, Span, without
from pyvfio.sim.machine import IommuGroup, Machine
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import Process, UserMemory, fail, is_user_range
from pyvfio.sim.vfio.dirty import LARGEST_BITMAP, MOST_PAGES, DirtyBitmap, bitmap_bytes
from pyvfio.sim.vfio.mappings import DmaMapping, Lookup, MappingList, WrappingTree
from pyvfio.sim.vfio.type1_pages import Type1Pages

_LIMIT = 1 << 64
_READ_WRITE = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE
_MAP_FLAGS = _READ_WRITE | vfio.VFIO_DMA_MAP_FLAG_VADDR
_GET_DIRTY = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
_ALL, _VADDR = vfio.VFIO_DMA_UNMAP_FLAG_ALL, vfio.VFIO_DMA_UNMAP_FLAG_VADDR
_START, _STOP = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
_GET_BITMAP = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP


class Type1:
    """The mappings of one container, from VFIO_SET_IOMMU on. Groups with an IOMMU share one domain.

    version: asked to unmap a part of a mapping, 1 unmaps the whole, 2 refuses. While there are none but mediated
    devices, mappings are only recorded.
    """

    def __init__(self, machine: Machine, version: int) -> None:
        self._machine = machine
        self._pages = Type1Pages(machine.pages, machine.version)
        self.version = version
        self._left = machine.dma_entry_limit
        self._translated: list[IommuGroup] = []
        self._mediated: list[IommuGroup] = []
        self.iova_ranges: tuple[Span, ...] = ()
        """Where mappings may lie. Empty: anywhere, because there are none but mediated devices."""
        self._wraps = machine.version < (6, 18)
        self._forget_mappings()
        self._without_vaddr = 0
        self._tracks_dirty = False

    def _forget_mappings(self) -> None:
        # What the IOMMU knows, and by what the driver finds it.
        self._mappings = MappingList()
        self._known: Lookup = WrappingTree() if self._wraps else MappingList()

    @property
    def mappings(self) -> tuple[DmaMapping, ...]:
        """In ascending order."""
        return tuple(self._mappings)

    @property
    def has_mediated(self) -> bool:
        return bool(self._mediated)

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[DmaMapping, int, int]] | None:
        """Mapping, offset in it and length of each part of a transfer; None if the IOMMU stops it anywhere."""
        return self._mappings.translate(iova, size, flag)

    def has_extension(self, extension: int) -> bool:
        """Whether it has an extension that only an IOMMU in use can tell."""
        match extension:
            case vfio.VFIO_UPDATE_VADDR:
                return not self.has_mediated
            case vfio.VFIO_DMA_CC_IOMMU:
                return not self._translated or self._machine.iommu_model.coherent
            case _:
                return False

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_IOMMU_GET_INFO:
                return self._get_info(user)
            case vfio.VFIO_IOMMU_MAP_DMA:
                return self._map(user)
            case vfio.VFIO_IOMMU_UNMAP_DMA:
                return self._unmap(user)
            case vfio.VFIO_IOMMU_DIRTY_PAGES:
                return self._dirty_pages(user)
            case _:
                raise fail(errno.ENOTTY)

    def attach(self, group: IommuGroup, process: Process) -> None:
        """Put the group's devices behind this IOMMU, as process asks. Raises OSError as vfio_iommu_type1_attach_group.

        Mappings that were only recorded are pinned then, at the addresses of process, whoever recorded them.
        """
        if self._without_vaddr:
            raise fail(errno.EBUSY)
        if group.is_mediated:
            self._mediated.append(group)
            return
        ranges = without(self.iova_ranges or self._machine.iova_ranges, group.reserved)
        if not ranges or any(self._known.find(first, last + 1 - first) for first, last in group.reserved):
            raise fail(errno.EINVAL)
        if not all(_fits(ranges, mapping.iova, mapping.end - 1) for mapping in self._known):
            raise fail(errno.EINVAL)
        if not self._machine.remaps_interrupts and not self._machine.sysfs.allows_unsafe_interrupts:
            raise fail(errno.EPERM)
        if not self._translated:
            self._enter_all(process)
        self._translated.append(group)
        self.iova_ranges = ranges

    def detach(self, group: IommuGroup) -> None:
        """The group leaves. With the last one that has an IOMMU, nothing stays pinned."""
        groups = self._mediated if group in self._mediated else self._translated
        groups.remove(group)
        if not self._translated:
            for mapping in self._mappings:
                self._unpin(mapping)
            self.iova_ranges = ()
        else:
            reserved = tuple(span for each in self._translated for span in each.reserved)
            self.iova_ranges = without(self._machine.iova_ranges, reserved)
        if not self._translated and not self._mediated:
            self._forget_mappings()

    def _enter_all(self, process: Process) -> None:
        """Pin the mappings that were only recorded. A failure leaves none of them pinned."""
        entered: list[DmaMapping] = []
        try:
            for mapping in self._known:
                if not self._is_stray(mapping):
                    self._enter(mapping, process)
                    entered.append(mapping)
        except OSError:
            for mapping in entered:
                self._unpin(mapping)
            raise

    def _enter(self, mapping: DmaMapping, process: Process) -> None:
        is_written = bool(mapping.flags & vfio.VFIO_DMA_MAP_FLAG_WRITE)
        mapping.pin = self._pages.pin(mapping, process, write=is_written)
        mapping.is_entered = True

    def _is_stray(self, mapping: DmaMapping) -> bool:
        """Whether the driver takes the mapping's end for 0, and so has nothing to do where it goes over its pages."""
        return self._wraps and mapping.ends_at_limit

    def _unpin(self, mapping: DmaMapping) -> None:
        """Nothing of it is pinned and charged any more; but that of a stray mapping is, for good."""
        if not self._is_stray(mapping):
            self._pages.unpin(mapping)
        mapping.pin, mapping.is_entered = None, False

    def _get_info(self, user: UserMemory) -> int:
        argsz = int.from_bytes(user.read(16)[:4], "little")
        if argsz < 16:
            raise fail(errno.EINVAL)
        is_aligned = self._machine.version >= (6, 6)
        head = ctypes.sizeof(vfio.vfio_iommu_type1_info)
        ranges = self.iova_ranges
        bodies = [
            (vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, struct.pack("<I4xQQ", 0, PAGE, LARGEST_BITMAP)),
            (vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, struct.pack("<I", self._left)),
        ]
        if ranges:
            body = struct.pack("<II", len(ranges), 0) + b"".join(struct.pack("<QQ", *ends) for ends in ranges)
            bodies.append((vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, body))
        chain = capability_chain(head, bodies, 8 if is_aligned else 4)
        flags = vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS
        fits = argsz >= head + len(chain)
        needed = argsz if fits else head + len(chain)
        page_sizes = self._machine.page_sizes if self._translated else ALL_PAGE_SIZES
        info = struct.pack("<IIQII", needed, flags, page_sizes, head if fits else 0, 0)
        if fits:
            user.write(chain, head)
        if is_aligned:
            user.write(info[: min(argsz, head)])
        else:
            user.write(info[: 20 if argsz >= 20 else 16])
        return 0

    def _map(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_map, 32)
        iova, size, vaddr, flags = argument.iova, argument.size, argument.vaddr, argument.flags
        if argument.argsz < 32 or flags & ~_MAP_FLAGS:
            raise fail(errno.EINVAL)
        wraps = size and (iova + size > _LIMIT or vaddr + size > _LIMIT)
        if wraps and self._machine.version >= (6, 18):
            raise fail(errno.EOVERFLOW)
        sets_vaddr = bool(flags & vfio.VFIO_DMA_MAP_FLAG_VADDR)
        if bool(flags & _READ_WRITE) == sets_vaddr or not size or (size | iova | vaddr) % PAGE or wraps:
            raise fail(errno.EINVAL)
        if sets_vaddr:
            self._set_vaddr(iova, size, vaddr, user.process)
            return 0
        if self._known.find(iova, size):
            raise fail(errno.EEXIST)
        if not self._left:
            raise fail(errno.ENOSPC)
        ranges = self.iova_ranges
        if ranges and not _fits(ranges, iova, iova + size - 1):
            raise fail(errno.EINVAL)
        mapping = DmaMapping(iova, size, vaddr, flags, user.process, user.process.charges.exempt)
        # First, as in the kernel: what fails leaves its mark in the shape of a tree.
        self._known.add(mapping)
        try:
            if self._translated:
                self._enter(mapping, user.process)
            if self._tracks_dirty:
                mapping.dirty = _new_bitmap(mapping)
        except OSError:
            self._unpin(mapping)
            self._known.remove([mapping])
            raise
        self._left -= 1
        self._mappings.add(mapping)
        return 0

    def _set_vaddr(self, iova: int, size: int, vaddr: int, process: Process) -> None:
        there = self._known.find(iova, size)
        if there is None:
            raise fail(errno.ENOENT)
        if there.has_vaddr or (there.iova, there.size) != (iova, size):
            raise fail(errno.EINVAL)
        if process is not there.owner:
            _change_owner(there, process)
        there.vaddr, there.has_vaddr = vaddr, True
        self._without_vaddr -= 1

    def _unmap(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_unmap, 24)
        iova, size, flags = argument.iova, argument.size, argument.flags
        if argument.argsz < 24 or flags & ~(_ALL | _VADDR | _GET_DIRTY):
            raise fail(errno.EINVAL)
        bitmap = None
        if flags & _GET_DIRTY:
            if flags & (_ALL | _VADDR) or argument.argsz < 24 + ctypes.sizeof(vfio.vfio_bitmap):
                raise fail(errno.EINVAL)
            bitmap = vfio.vfio_bitmap.from_buffer_copy(user.read(ctypes.sizeof(vfio.vfio_bitmap), 24))
            _check_bitmap(bitmap, size)
        if flags & _VADDR and self.has_mediated:
            raise fail(errno.EBUSY)
        size = self._checked_size(iova, size, flags)
        if bitmap is not None and (not self._tracks_dirty or bitmap.pgsize != PAGE):
            raise fail(errno.EINVAL)
        if self.version == 2 and not flags & _ALL and self._cuts(iova, size):
            raise fail(errno.EINVAL)
        touched = self._known.within(iova, iova + size)
        if self.version == 1 and touched and touched[0].iova < iova:
            touched = []
        if flags & _VADDR:
            self._invalidate(touched)
        else:
            self._remove(touched, iova, bitmap)
        user.write(struct.pack("<Q", sum(mapping.size for mapping in touched)), 16)
        return 0

    def _cuts(self, iova: int, size: int) -> bool:
        """Whether an end of the range lies within a mapping, as far as the driver finds that."""
        first, last = self._known.find(iova, 1), self._known.find(iova + size - 1, 0)
        is_cut = last is not None and (last.end - iova - size) % _LIMIT != 0
        return is_cut or (first is not None and first.iova != iova)

    def _checked_size(self, iova: int, size: int, flags: int) -> int:
        if iova % PAGE:
            raise fail(errno.EINVAL)
        if flags & _ALL:
            if iova or size:
                raise fail(errno.EINVAL)
            return _LIMIT - 1
        if not size or size % PAGE:
            raise fail(errno.EINVAL)
        if iova + size > _LIMIT:
            raise self._overflow()
        return size

    def _overflow(self) -> OSError:
        return fail(errno.EOVERFLOW if self._machine.version >= (6, 18) else errno.EINVAL)

    def _invalidate(self, mappings: Sequence[DmaMapping]) -> None:
        if not all(mapping.has_vaddr for mapping in mappings):
            raise fail(errno.EINVAL)
        for mapping in mappings:
            mapping.has_vaddr = False
        self._without_vaddr += len(mappings)

    def _remove(self, mappings: Sequence[DmaMapping], iova: int, bitmap: vfio.vfio_bitmap | None) -> None:
        """Unmap them. Raises OSError(EFAULT) where a bitmap cannot be written; the mappings before are gone by then."""
        gone = 0
        try:
            for mapping in mappings:
                if bitmap is not None:
                    self._hand_out(mapping, bitmap, iova)
                self._left += 1
                self._without_vaddr -= not mapping.has_vaddr
                self._unpin(mapping)
                gone += 1
        finally:
            self._known.remove(mappings[:gone])
            # The IOMMU goes on with a stray one.
            self._mappings.remove([mapping for mapping in mappings[:gone] if not self._is_stray(mapping)])

    def _dirty_pages(self, user: UserMemory) -> int:
        if self.version == 1:
            raise fail(errno.EACCES)
        argument = user.struct(vfio.vfio_iommu_type1_dirty_bitmap, 8)
        if argument.argsz < 8:
            raise fail(errno.EINVAL)
        match argument.flags:
            case flags if flags == _START:
                self._start_tracking()
            case flags if flags == _STOP:
                self._stop_tracking()
            case flags if flags == _GET_BITMAP:
                self._get_bitmap(user, argument.argsz)
            case _:
                raise fail(errno.EINVAL)
        return 0

    def _start_tracking(self) -> None:
        if self._tracks_dirty:
            return
        bitmaps = [_new_bitmap(mapping) for mapping in self._known]
        for mapping, bitmap in zip(self._known, bitmaps, strict=True):
            mapping.dirty = bitmap
        self._tracks_dirty = True

    def _stop_tracking(self) -> None:
        for mapping in self._known:
            mapping.dirty = None
        self._tracks_dirty = False

    def _get_bitmap(self, user: UserMemory, argsz: int) -> None:
        if argsz - 8 < ctypes.sizeof(vfio.vfio_iommu_type1_dirty_bitmap_get):
            raise fail(errno.EINVAL)
        wanted = vfio.vfio_iommu_type1_dirty_bitmap_get.from_buffer_copy(
            user.read(ctypes.sizeof(vfio.vfio_iommu_type1_dirty_bitmap_get), 8)
        )
        iova, size = wanted.iova, wanted.size
        if not size:
            raise fail(errno.EINVAL)
        # Before 6.18 a range that ends at 2^64 counts as one that wraps.
        if iova + size > _LIMIT - self._wraps:
            raise self._overflow()
        _check_bitmap(wanted.bitmap, size)
        if wanted.bitmap.pgsize != PAGE or (iova | size) % PAGE or not self._tracks_dirty:
            raise fail(errno.EINVAL)
        if self._cuts(iova, size):
            raise fail(errno.EINVAL)
        # The driver goes over all of its tree here, so that nothing in it is hidden.
        there = self._mappings.within(iova, iova + size)
        for mapping in there if not there or there[0].iova >= iova else there[1:]:
            self._hand_out(mapping, wanted.bitmap, iova)
            if mapping.dirty is not None:
                mapping.dirty.clear()

    def _hand_out(self, mapping: DmaMapping, bitmap: vfio.vfio_bitmap, iova: int) -> None:
        if mapping.dirty is not None:
            mapping.dirty.hand_out(bitmap.data, (mapping.iova - iova) // PAGE, all_dirty=mapping.is_entered)


def _fits(ranges: tuple[Span, ...], first: int, last: int) -> bool:
    return any(start <= first and last <= end for start, end in ranges)


def _change_owner(mapping: DmaMapping, process: Process) -> None:
    """Charge process for the mapping from now on. Raises OSError(ENOMEM). Source: vfio_change_dma_owner."""
    charged, is_exempt = mapping.pin.charged if mapping.pin else 0, process.charges.exempt
    process.charges.lock(charged, exempt=is_exempt)
    mapping.owner.charges.unlock(charged)
    mapping.owner, mapping.is_exempt = process, is_exempt


def _new_bitmap(mapping: DmaMapping) -> DirtyBitmap:
    if mapping.size // PAGE > MOST_PAGES:
        raise fail(errno.EINVAL)
    return DirtyBitmap(mapping.size // PAGE)


def _check_bitmap(bitmap: vfio.vfio_bitmap, size: int) -> None:
    """Raises OSError(EINVAL) for a bitmap that is not in the program's memory, or too small or large for size bytes."""
    if not is_user_range(bitmap.data, bitmap.size):
        raise fail(errno.EINVAL)
    pages = size // (bitmap.pgsize & -bitmap.pgsize or PAGE)
    if not pages or not bitmap_bytes(pages) <= bitmap.size <= LARGEST_BITMAP:
        raise fail(errno.EINVAL)
