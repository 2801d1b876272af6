"""RegionMemory: takes what a front end shares for the device's region, if it can be proved to be that."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.kernel import host_page_size
from pyvfio.memory import SharedMemory
from virtiomem.device import StateNotKept, VirtioMem
from virtiomem.persistence import DescriptorStore, KeptDevice, MemoryIdentity
from virtiomem.runs import Run, subtract
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.memory_table import FileRange, GuestRegion, file_range, is_of_huge_pages

_log = logging.getLogger(__package__)

_GIB: Final = 1 << 30
_FOUR_GIB: Final = 4 * _GIB
_NOTHING_SHARED: Final = "the front end shares no memory at the region's addresses"


class RegionMemory:
    """The memory of a device's region, out of what front end after front end shares of its guest's.

    Unplugged blocks are discarded in it, so what is taken must be the region and nothing else: a file of its own, or
    the part of one that the host has named; and nobody's data are in it, unless it is the memory that was here before
    or the host gives them up.

    missing: why the connected guest's memory is not what is attached; empty if it is.
    """

    def __init__(
        self,
        device: VirtioMem,
        memory: SharedMemory,
        events: FrontEndEvents,
        kept: KeptDevice,
        store: DescriptorStore,
        *,
        file_offset: int | None,
        discard: bool,
    ) -> None:
        """memory: the device's. events: who is told when other memory is attached. kept: the device's keeper. store:
        keeps the file of what is attached.

        file_offset: where the region begins in the file that has all of the guest's memory, in bytes; None: the region
        has a file of its own. discard: the host does not want what is in memory that comes here for the first time.
        """
        self._device = device
        self._memory = memory
        self._events = events
        self._kept = kept
        self._store = store
        self._file_offset = file_offset
        self._discard = discard
        self._file: FileRange | None = None
        # What is attached, and whose blocks could not be plugged again yet.
        self._awaited: FileRange | None = None
        # How to take what could only not be recorded.
        self._again: Callable[[], None] | None = None
        # Meanwhile nothing is given back of it.
        self._keeping = ExitStack()
        self.missing = _NOTHING_SHARED

    @property
    def known(self) -> bool:
        """Whether a guest's memory has been attached: who comes next may be the same guest."""
        return self._file is not None or self._kept.left is not None

    @property
    def awaited(self) -> bool:
        """Whether the connected guest is the one of which the process before has left what cannot be taken up yet."""
        return self._awaited is not None

    def forget(self) -> None:
        """Another front end has connected, and has shared nothing yet. What is attached stays so."""
        self._awaited = self._again = None
        self.missing = _NOTHING_SHARED

    def go_on(self) -> None:
        """Have the memory that a process before this one had attached, if it was kept, with the blocks plugged in it.

        It need not be the memory of a front end that is connected.
        """
        memory = self._kept.memory
        if self._kept.left is None or memory is None or memory.name is None:
            return
        try:
            fd = self._store.use(memory.name)
        except VfioError as error:
            _log.warning("%s: its memory is awaited: %s", self._device.name, error)
            return
        try:
            file = file_range(fd, memory.offset)
            with ExitStack() as keeping:
                keeping.enter_context(self._memory.pages_kept())
                self._memory.attach(fd, file.offset)
                self._awaited, self._keeping = file, keeping.pop_all()
        except BaseException:
            os.close(fd)
            raise
        self._again = partial(self._take_up, file)
        try:
            self._take_up(file)
        except VfioError as error:
            # As soon as its front end shares it, it is tried again.
            _log.warning("%s: what was plugged is not yet again: %s", self._device.name, error)

    def release(self) -> int:
        """The guest has ended: unplug all, discard what is in its memory, and let that go; return how much was plugged.

        What the process before has left is forgotten. Raises DeviceBusy if blocks must stay plugged, or could not be
        unplugged: all is as before then. Raises VfioError if memory cannot be given back: nothing is plugged then, and
        this can be tried again.
        """
        plugged = self._device.plugged_size
        left, before, memory = self._kept.left, self._file or self._awaited, self._kept.memory
        if left is not None:
            plugged = left.config.plugged_size
        # First: a process that goes on from here must not take what is gone for plugged.
        self._kept.attached(None, self._device.save())
        if before is not None:
            try:
                self._device.system_reset()
                self._awaited, self._file = None, before
                self._keeping.close()
                self._memory.discard(0, self._memory.size)
                self._memory.detach()
            except BaseException:
                self._kept.attached(memory, self._device.save())
                raise
        self._drop(memory)
        self._file = None
        self.missing = _NOTHING_SHARED
        return plugged

    def settle(self) -> str:
        """Why the connected guest's memory is not what is attached; empty if it is.

        What could not be taken up, or recorded, when the memory came is tried again.
        """
        if self.missing and self._again is not None:
            with suppress(VfioError):
                self._again()
                self.missing = ""
        return self.missing

    def attach(self, regions: Sequence[GuestRegion]) -> None:
        """The front end shares these regions now: take the memory at the region's addresses, if it is other memory.

        If none is shared there, what is attached stays so, and missing says why. Other memory means another machine:
        the device goes through a system reset, and what was attached is let go with all that is in it.

        Raises VfioError for memory that is not proved to be the region, and if listeners do not let go of what is
        attached; that stays attached then, with its blocks. Also raised if the memory cannot be mapped: nothing is
        attached then. missing says why.
        """
        self.missing = _NOTHING_SHARED
        self._awaited = self._again = None
        try:
            region = self._region_of(regions)
            if region is None:
                return
            file = self._proved(region, regions)
            if file != self._file:
                try:
                    self._take(region, file, regions)
                except StateNotKept:
                    self._again = partial(self._take, region, file, regions)
                    raise
        except VfioError as error:
            self.missing = f"the guest's memory is not attached: {error}"
            raise
        self.missing = ""

    def _region_of(self, regions: Sequence[GuestRegion]) -> GuestRegion | None:
        """The one of regions that has the device's region; None if none has any of it. Raises VfioError."""
        start, end = self._start, self._end
        for region in regions:
            region_end = region.guest_address + region.size
            if region.guest_address >= end or start >= region_end:
                continue
            is_part = region.guest_address <= start and end <= region_end
            if (region.guest_address, region_end) != (start, end) and not (is_part and self._file_offset is not None):
                raise self._refused(
                    region, regions, "the device's region is not just this, but lies in it or across it"
                )
            return region
        return None

    def _proved(self, region: GuestRegion, regions: Sequence[GuestRegion]) -> FileRange:
        """Where the device's region is, in a file that is its own as far as it goes. Raises VfioError."""
        offset = region.file.offset + self._start - region.guest_address
        file = replace(region.file, offset=offset)
        others = [other for other in regions if other is not region and other.file.is_in(file)]
        page_size, ours = region.memory.page_size, self._memory.page_size
        if region.memory.fd is not None and is_of_huge_pages(region.memory.fd) and page_size != ours:
            meaning = f"its pages have {page_size:#x} bytes, and those of this device {ours:#x}"
            raise self._refused(region, regions, meaning, f"Serve it with --page-size {page_size:#x}")
        if self._file_offset is None:
            if offset:
                raise self._refused(region, regions, f"it begins at {offset:#x} of its file, which has more than it")
            if (length := _status(region).st_size) != self._size:
                raise self._refused(region, regions, f"its file has {length:#x} bytes, which is more than the region")
            if others:
                raise self._refused(region, regions, f"its file is that of {others[0].guest_address:#x}, too")
        elif offset != self._file_offset:
            meaning = f"it begins at {offset:#x} of its file, and the host says {self._file_offset:#x}"
            raise self._refused(region, regions, meaning)
        elif shared := [other for other in others if other.overlaps_file(offset, self._size)]:
            meaning = f"its part of the file is that of {shared[0].guest_address:#x}, too"
            raise self._refused(region, regions, meaning)
        return file

    def _take(self, region: GuestRegion, file: FileRange, regions: Sequence[GuestRegion]) -> None:
        is_left = self._kept.is_left(_identity(file))
        if not is_left and not self._discard and _holds_pages(region, file.offset, self._size):
            raise self._refused(
                region,
                regions,
                "it is new here and holds pages, which may be a guest's that runs",
                "End the guest, or let the host say that nobody needs them (--discard)",
            )
        assert region.memory.fd is not None
        try:
            fd = os.dup(region.memory.fd)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, "attach memory") from error
        with ExitStack() as keeping:
            # Until the device is this memory's: nobody is to find pages in blocks that only seem to be unplugged.
            keeping.enter_context(self._memory.pages_kept())
            try:
                if self._file is not None:
                    self._let_go()
                # A listener may hold what it would not let go of when something failed before.
                self._device.discards.repair()
                self._memory.attach(fd, file.offset)
            except BaseException:
                os.close(fd)
                raise
            # Not before: what is awaited may have to stay where it is.
            self._keeping.close()
            if is_left:
                self._awaited, self._keeping = file, keeping.pop_all()
                self._again = partial(self._take_up, file)
                self._take_up(file)
                return
        if self._discard:
            self._memory.discard(0, self._memory.size)
        before = self._kept.memory
        self._kept.attached(self._identity(file), self._device.save())
        self._drop(before)
        self._again, self._file = None, file
        self._events.attached(self._size)

    def _let_go(self) -> None:
        """Begin with nothing plugged, and leave what is in the memory that is attached. Raises VfioError."""
        # First: a process that goes on from here must not take what is plugged in it for nothing.
        before = self._kept.memory
        self._kept.attached(None, self._device.save())
        try:
            # It is not ours to empty: a guest whose front end has gone may still run on it.
            with self._memory.pages_kept():
                self._device.system_reset()
        except BaseException:
            self._kept.attached(before, self._device.save())
            raise
        self._drop(before)
        self._file = None

    def _identity(self, file: FileRange) -> MemoryIdentity:
        """file, which is attached, for the device's keeper: by a descriptor that outlives the process, if there is."""
        name: str | None = None
        if self._store.is_lasting:
            assert self._memory.fd is not None
            try:
                name = self._store.keep(self._memory.fd, "region")
            except VfioError as error:
                _log.warning("%s: its memory would be awaited after this process: %s", self._device.name, error)
        return replace(_identity(file), name=name)

    def _drop(self, memory: MemoryIdentity | None) -> None:
        if memory is not None and memory.name is not None:
            self._store.drop(memory.name)

    def _take_up(self, file: FileRange) -> None:
        """Go on with the blocks that were plugged in this memory, which is attached. Raises VfioError."""
        with self._kept.taking_up() as state, self._memory.pages_kept():
            # The device was made with what was requested last, and has followed the host since.
            self._device.load(state, is_resized=True)
        self._awaited, self._again, self._file = None, None, file
        self._keeping.close()
        # What the process before had populated for blocks that it did not plug any more, or a guest has touched.
        for run in subtract([Run(0, self._memory.size)], self._device.populated_runs(Run(0, self._memory.size))):
            with suppress(OSError):
                self._memory.discard(run.start, run.size)
        self._events.attached(self._size)

    @property
    def _start(self) -> int:
        return self._device.section.offset_within_address_space

    @property
    def _size(self) -> int:
        return self._device.section.size

    @property
    def _end(self) -> int:
        return self._start + self._size

    def _refused(
        self, region: GuestRegion, regions: Sequence[GuestRegion], meaning: str, advice: str = ""
    ) -> VfioError:
        arguments = {"guest address": region.guest_address, "size": region.size}
        return VfioError(errno.EINVAL, "attach memory", arguments, meaning, advice or self._advice(regions))

    def _advice(self, regions: Sequence[GuestRegion]) -> str:
        """Where the region could be instead: where a memory backend is that looks like it, else behind all memory."""
        for region in regions:
            alone = not any(other is not region and other.file.is_in(region.file) for other in regions)
            fits = alone and not region.file.offset and _status(region).st_size == region.size == self._size
            if fits and region.guest_address and not _holds_pages(region, 0, region.size):
                return f"The memory at {region.guest_address:#x} could be it: --address {region.guest_address:#x}"
        free = free_address([(other.guest_address, other.size) for other in regions])
        return f"Give it a memory backend of its own, of its size, at an address that is free, such as {free:#x}"


def _identity(file: FileRange) -> MemoryIdentity:
    return MemoryIdentity(file.device, file.inode, file.offset, born=file.born)


def free_address(taken: Sequence[tuple[int, int]]) -> int:
    """A guest-physical address behind all of these ranges, of address and size, where a region of any size fits.

    It is at 4 GiB or above, and at a whole GiB, as QEMU begins the addresses of memory devices.
    """
    end = max([_FOUR_GIB, *(address + size for address, size in taken)])
    return -(-end // _GIB) * _GIB


def _status(region: GuestRegion) -> os.stat_result:
    assert region.memory.fd is not None
    return os.fstat(region.memory.fd)


def _holds_pages(region: GuestRegion, offset: int, size: int) -> bool:
    """Whether anything is in size bytes from offset of the file that region is of, or may be."""
    if not _status(region).st_blocks:
        return False
    if region.memory.page_size != host_page_size():
        # hugetlbfs does not tell where: something is in the file.
        return True
    assert region.memory.fd is not None
    try:
        return os.lseek(region.memory.fd, offset, os.SEEK_DATA) < offset + size
    except OSError as error:
        return error.errno != errno.ENXIO
