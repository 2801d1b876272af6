"""Region: a part of a device that is read and written: a BAR, the ROM, config space, or one of its own."""

from __future__ import annotations

import enum
import errno
import operator
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvfio.abi import mman, vfio
from pyvfio.device.ioeventfd import IoEventFd
from pyvfio.device.open_device import DevicePart, OpenDevice
from pyvfio.device.region_info import MmapArea, RegionFlags, RegionInfo, region_info
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import (
    Window,
    WindowReleased,
    has_memory_barrier,
    host_page_size,
    is_strongly_ordered,
    memory_barrier,
    octets_of,
    query,
)
from pyvfio.reserved import bar_claim

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NONE: memoryview[int] = memoryview(bytearray())


class RegionIndex(enum.IntEnum):
    """The regions that a PCI device has: VFIO_PCI_*_REGION_INDEX. Regions of its own are numbered from VGA + 1 on;
    RegionInfo.type says what they are."""

    BAR0 = vfio.VFIO_PCI_BAR0_REGION_INDEX
    BAR1 = vfio.VFIO_PCI_BAR1_REGION_INDEX
    BAR2 = vfio.VFIO_PCI_BAR2_REGION_INDEX
    BAR3 = vfio.VFIO_PCI_BAR3_REGION_INDEX
    BAR4 = vfio.VFIO_PCI_BAR4_REGION_INDEX
    BAR5 = vfio.VFIO_PCI_BAR5_REGION_INDEX
    ROM = vfio.VFIO_PCI_ROM_REGION_INDEX
    CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
    VGA = vfio.VFIO_PCI_VGA_REGION_INDEX


class Region(DevicePart):
    """A region of a device, and a child of it. A register access is one access of exactly the width that is asked for.

    An access goes through a mapping if the region can be mapped, otherwise it is a call to the kernel. Offsets are
    bytes from the region's start and multiples of the width; values are unsigned and little endian on PCI. The mapping
    is made at the first access that needs it and lives until close(). An access to a BAR that does not answer, because
    memory decoding is off or the device sleeps, raises VfioError (EIO) and never SIGBUS, unless another program or
    descriptor put the device in that state.

    Writing a register comes after everything that the thread wrote before, to memory or registers, and reading one
    before everything that it reads after: what a driver put into memory is there when the doorbell rings. Memory
    against memory needs memory_barrier(). A region may be closed in one thread while another uses it.

    Every access raises InvalidArgument for an offset outside the region or not a multiple of the width, and for another
    width, ClosedError if the region is closed, and VfioError if the region does not allow it or the device does not
    answer. docs/guarantees.md says what holds, and which tests show it.
    info: what VFIO says of the region. A BAR that the device lacks is a region of 0 bytes.
    """

    def __init__(self, device: OpenDevice, index: int) -> None:
        """Raises VfioError if there is no region with this number. A BAR that the device lacks has one, of 0 bytes."""
        self._mapped: dict[MmapArea, int] = {}
        self._windows: dict[MmapArea, Window] = {}
        self._views: Mapping[int, memoryview[int]] = {}
        self._u32 = _NONE
        with device.descriptor.in_use() as fd:
            try:
                struct = vfio.vfio_region_info
                info, data = query(device.kernel, fd, vfio.VFIO_DEVICE_GET_REGION_INFO, struct, index)
            except OSError as error:
                meaning = "the device has none"
                raise VfioError(error.errno or errno.EIO, f"region {index} of {device.address}", {}, meaning) from error
        self.info: RegionInfo = region_info(info, data)
        super().__init__(device, index)

    @property
    def size(self) -> int:
        """The bytes of the region."""
        return self.info.size

    def read8(self, offset: int) -> int:
        """Read the register of 8 bits at offset."""
        return self.read_register(offset, 1)

    def read16(self, offset: int) -> int:
        """Read the register of 16 bits at offset."""
        return self.read_register(offset, 2)

    def read32(self, offset: int) -> int:
        """Read the register of 32 bits at offset."""
        # The access that drivers make most, without the steps of read_register that it does not need.
        if offset >= 0 and not offset & 3:
            try:
                return self._u32[offset >> 2]
            except (IndexError, ValueError):
                pass
        return self.read_register(offset, 4)

    def read64(self, offset: int) -> int:
        """Read the register of 64 bits at offset."""
        return self.read_register(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        """Write the register of 8 bits at offset."""
        self.write_register(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        """Write the register of 16 bits at offset."""
        self.write_register(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        """Write the register of 32 bits at offset."""
        if offset >= 0 and not offset & 3:
            try:
                self._u32[offset >> 2] = value
            except (IndexError, ValueError):
                pass
            else:
                return
        self.write_register(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        """Write the register of 64 bits at offset."""
        self.write_register(offset, 8, value)

    def read_register(self, offset: int, width: int) -> int:
        """Read the register of width bytes (1, 2, 4 or 8) at offset."""
        view = self._views.get(width)
        if view is not None and offset >= 0 and not offset % width:
            try:
                return view[offset // width]
            except (IndexError, ValueError):
                # ValueError: the window has been released, by whoever closes the region or silences the device.
                pass
        self._check_access("read", offset, width, width, RegionFlags.READ)
        while found := self._window(offset, width):
            window, place = found
            with suppress(WindowReleased):
                value = window.load(place, width)
                if not is_strongly_ordered:
                    memory_barrier()
                return value
        return int.from_bytes(self._pread(offset, width), "little")

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Write the register of width bytes (1, 2, 4 or 8) at offset. Raises InvalidArgument for a value that is too
        large for it."""
        view = self._views.get(width)
        if view is not None and offset >= 0 and not offset % width:
            try:
                view[offset // width] = value
            except (IndexError, ValueError):
                pass
            else:
                return
        value = self.check_write(offset, width, value)
        while found := self._window(offset, width):
            window, place = found
            with suppress(WindowReleased):
                if not is_strongly_ordered:
                    memory_barrier()
                window.store(place, width, value)
                return
        self._pwrite(offset, memoryview(value.to_bytes(width, "little")))

    def check_write(self, offset: int, width: int, value: int) -> int:
        """Raise what write_register() would raise for these arguments, without an access; return value as an int."""
        self._check_access("write", offset, width, width, RegionFlags.WRITE)
        value = operator.index(value)
        if not 0 <= value < 1 << 8 * width:
            raise InvalidArgument(
                errno.EINVAL, f"write {8 * width} bits", {"offset": offset, "value": value}, "the value is too wide"
            )
        return value

    def read(self, offset: int, size: int) -> bytes:
        """Read size bytes from offset on, in accesses of widths that the kernel chooses.

        For the ROM, VGA memory and config space, not for registers.
        """
        self._check_access("read", offset, size, 1, RegionFlags.READ)
        return self._pread(offset, size)

    def write(self, offset: int, data: ReadableBuffer) -> None:
        """Write the bytes of data from offset on, in accesses of widths that the kernel chooses. Not for registers.

        data: bytes, or any other contiguous buffer, whatever its items are.
        """
        octets = octets_of(data)
        self._check_access("write", offset, len(octets), 1, RegionFlags.WRITE)
        self._pwrite(offset, octets)

    def ioeventfd(self, offset: int, width: int, value: int) -> IoEventFd:
        """An eventfd whose signal makes the kernel write value, of width bytes, at offset. A child of the region.

        Raises what IoEventFd raises.
        """
        self._check_access("ioeventfd", offset, width, width, RegionFlags.WRITE)
        return IoEventFd(self, self.info, offset, width, value)

    def _pread(self, offset: int, size: int) -> bytes:
        data = b""
        with self.device.descriptor.in_use() as fd:
            while len(data) < size:
                try:
                    part = self.kernel.pread(fd, size - len(data), self.info.offset + offset + len(data))
                except OSError as error:
                    raise self._failure("read", error.errno, offset, size) from error
                if not part:
                    raise self._failure("read", errno.EIO, offset, size, f"only {len(data)} bytes came")
                data += part
        return data

    def _pwrite(self, offset: int, data: memoryview) -> None:
        done = 0
        with self.device.descriptor.in_use() as fd:
            while done < len(data):
                try:
                    count = self.kernel.pwrite(fd, bytes(data[done:]), self.info.offset + offset + done)
                except OSError as error:
                    raise self._failure("write", error.errno, offset, len(data)) from error
                if not count:
                    raise self._failure("write", errno.EIO, offset, len(data), f"only {done} bytes went")
                done += count

    def _failure(self, operation: str, code: int | None, offset: int, size: int, meaning: str = "") -> VfioError:
        code = code or errno.EIO
        advice = ""
        if not meaning and code == errno.EIO and self.info.index <= RegionIndex.ROM:
            meaning, advice = self.device.answering.silence
        if not meaning and code == errno.EBUSY and self.info.index <= RegionIndex.ROM:
            meaning, advice = bar_claim(self.kernel, self.device.address, self.info.index)
        arguments = {"offset": offset, "size": size}
        return VfioError(code, f"{operation} {self._name}", arguments, meaning, advice)

    def _check_access(self, operation: str, offset: int, size: int, width: int, need: RegionFlags) -> None:
        self.require_open()
        if width not in (1, 2, 4, 8):
            raise InvalidArgument(
                errno.EINVAL, f"{operation} {self._name}", {"width": width}, "it is 1, 2, 4 or 8 bytes"
            )
        if offset >= 0 and size > 0 and offset + size <= self.info.size and not offset % width:
            if self.info.flags & need:
                return
            raise VfioError(
                errno.EPERM, f"{operation} {self._name}", {"offset": offset}, "the region does not allow it"
            )
        meaning = f"outside the region of {self.info.size:#_x} bytes"
        if not size:
            meaning = "the range is empty"
        elif offset % width:
            meaning = f"offset must be a multiple of {width}"
        arguments = {"offset": offset, "size": size}
        raise InvalidArgument(errno.EINVAL, f"{operation} {self._name}", arguments, meaning)

    def _window(self, offset: int, width: int) -> tuple[Window, int] | None:
        """The window that a register is in, and where in it; None if the kernel has to make the access."""
        # On s390x, the big endian machine with VFIO, loads from a mapping are no access to PCI, but the kernel's are.
        # And those are ordered on processors whose barrier is not known here.
        if sys.byteorder != "little" or not has_memory_barrier():
            return None
        for area in self.info.mmap_areas:
            if area.offset <= offset and offset + width <= area.offset + area.size:
                window = self._windows.get(area)
                if window is None or window.released:
                    window = self._new_window(area)
                return None if window is None else (window, offset - area.offset)
        return None

    def _new_window(self, area: MmapArea) -> Window | None:
        """None if the device does not answer. Raises ClosedError, VfioError."""
        answering = self.device.answering
        with answering.lock:
            # Whoever closes the region takes the lock to release its windows: it finds this one, or we find it closed.
            self.require_open()
            window = self._windows.get(area)
            if window is None or window.released:
                window = answering.window(lambda: self._window_onto(area))
                if window is not None:
                    self._windows[area] = window
                    self._use_views(area, window)
            return window

    def _window_onto(self, area: MmapArea) -> Window:
        if area not in self._mapped:
            self._mapped[area] = self._map(area)
        is_writable = bool(self.info.flags & RegionFlags.WRITE)
        return self.kernel.window(self._mapped[area], area.size, writable=is_writable)

    def _use_views(self, area: MmapArea, window: Window) -> None:
        """From now on accesses need no look at the region's flags and areas, nor a barrier, if none ever does."""
        both = RegionFlags.READ | RegionFlags.WRITE
        if is_strongly_ordered and not area.offset and self.info.flags & both == both:
            self._views = window.views
            self._u32 = window.views.get(4, _NONE)

    def _map(self, area: MmapArea) -> int:
        protection = mman.PROT_NONE
        if self.info.flags & RegionFlags.READ:
            protection |= mman.PROT_READ
        if self.info.flags & RegionFlags.WRITE:
            protection |= mman.PROT_WRITE
        place = self.info.offset + area.offset
        with self.device.descriptor.in_use() as fd:
            try:
                return self.kernel.mmap(_whole_pages(area.size), protection, mman.MAP_SHARED, fd, place)
            except OSError as error:
                code, meaning, advice = error.errno or errno.EIO, "", ""
                if code == errno.EBUSY and self.info.index <= RegionIndex.ROM:
                    meaning, advice = bar_claim(self.kernel, self.device.address, self.info.index)
                arguments = {"offset": area.offset, "size": area.size}
                raise VfioError(code, f"map {self._name}", arguments, meaning, advice) from error

    def _release(self) -> None:
        answering = self.device.answering
        with answering.lock:
            for window in self._windows.values():
                answering.release(window)
            mapped, self._mapped = self._mapped, {}
        for area, address in mapped.items():
            self.kernel.munmap(address, _whole_pages(area.size))

    @property
    def _name(self) -> str:
        return f"region {self.info.index} of {self.device.address}"

    def __repr__(self) -> str:
        return f"<Region {self.info.index} of {self.device.address}, {self.info.size:#_x} bytes>"


def _whole_pages(size: int) -> int:
    page = host_page_size()
    return -(-size // page) * page
