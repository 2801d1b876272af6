"""Ioas: an IO address space of iommufd, an AddressSpace."""

from __future__ import annotations

import ctypes
import errno
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pyvfio.abi import iommufd as abi
from pyvfio.dma import END, Access, IovaRange, MapCall, MappedRun, MappingSpace, check_map_arguments, map_failure
from pyvfio.errors import AlreadyMapped, InvalidArgument, NotMapped, VfioError
from pyvfio.explain import no_raw_io
from pyvfio.iommufd.cdev import CdevDevice
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.iommufd.page_table import HwPageTable
from pyvfio.kernel import Kernel, host_page_size
from pyvfio.memory import Memory
from pyvfio.noiommu import PhysicalRange, PhysicalRun, joined

_ACCESS_FLAGS = {Access.READ: abi.IOMMU_IOAS_MAP_READABLE, Access.WRITE: abi.IOMMU_IOAS_MAP_WRITEABLE}

_PHYSICAL = {
    errno.ENOTTY: (
        "this kernel's iommufd has no devices without an IOMMU: those are new in Linux 7.3, with CONFIG_VFIO_NOIOMMU",
        "pyvfio.noiommu.UnsafePhysicalMemory tells where locked huge pages lie",
    ),
    errno.EOPNOTSUPP: (
        "no device without an IOMMU is attached, or one that has an IOMMU was attached before it",
        "Open it with unsafe_noiommu=True, in an address space of its own",
    ),
}


@dataclass(frozen=True, slots=True)
class IoasInfo:
    """What IOMMU_IOAS_IOVA_RANGES says. iommufd tells the smallest page size only, in bytes."""

    page_sizes: tuple[int, ...]
    iova_ranges: tuple[IovaRange, ...]


class Ioas(MappingSpace):
    """The DMA address space of the devices attached to it. An AddressSpace; in a program it stands where a Container
    would.

    Devices are opened by their own nodes, those without an IOMMU only on demand: for them what is mapped is pinned, and
    physical_range() says where it lies. There is no mapping limit, and what is mapped while no device is attached
    is pinned when the first one is. Pinned memory is charged to the user, all of his processes together, once for
    each map_dma even if it is copied to other address spaces. Safe from several threads: one lock for the iommufd
    and all of its objects.
    """

    def __init__(self, iommufd: Iommufd | None = None, *, kernel: Kernel | None = None) -> None:
        """iommufd: whose address space it is, and whose child; None opens one for it alone, closed with it.

        Raises VfioError that says what is missing if there is no iommufd.
        """
        self._owns_iommufd = iommufd is None
        self.iommufd = iommufd or Iommufd(kernel=kernel)
        self.kernel = self.iommufd.kernel
        self._info: IoasInfo | None = None
        self._maps_files: bool | None = None
        self._attached: list[IommufdDevice] = []
        argument = abi.iommu_ioas_alloc()
        try:
            self.iommufd.call(abi.IOMMU_IOAS_ALLOC, argument, "allocate address space")
            self.id = argument.out_ioas_id
            super().__init__(self.iommufd)
        except BaseException:
            if self._owns_iommufd:
                self.iommufd.close()
            raise

    @property
    def name(self) -> str:
        return f"IOAS {self.id}"

    @property
    def mappings_left(self) -> int | None:
        """None: iommufd sets no limit."""
        self._check_open()
        return None

    @property
    def devices(self) -> tuple[CdevDevice, ...]:
        """Those that are attached, directly or through a page table."""
        return tuple(device for device in self._attached if isinstance(device, CdevDevice))

    def open_device(
        self, address: str, *, vf_token: uuid.UUID | None = None, unsafe_noiommu: bool = False
    ) -> CdevDevice:
        """Open a device by its PCI address, and attach it. It is the address space's child.

        vf_token, unsafe_noiommu: see CdevDevice. Raises NoIommuError, DeviceNotBound, DeviceBusy, VfTokenRefused, or
        VfioError that says what stands in the way.
        """
        self._check_open()
        device = CdevDevice(self.iommufd, address, vf_token=vf_token, unsafe_noiommu=unsafe_noiommu, parent=self)
        try:
            device.attach(self)
        except BaseException:
            device.close()
            raise
        return device

    def page_table(
        self,
        device: IommufdDevice,
        *,
        dirty_tracking: bool = False,
        nest_parent: bool = False,
        pasid: bool = False,
        faults: FaultQueue | None = None,
        data: DriverData | None = None,
    ) -> HwPageTable:
        """Make an IO page table of its own for devices like device, which holds all this address space maps.

        dirty_tracking: for track_dirty(). nest_parent: for page tables of the program's own over it, nested(), and for
        viommu(). pasid: for devices that have process address spaces attached. faults: where page faults of its devices
        go; nothing nests on it then. data: what the IOMMU's driver is to know beside, if there is anything for it.
        Attach devices to it with device.attach(). It is the address space's child.
        Raises VfioError (EOPNOTSUPP) where the IOMMU has no such. Source: IOMMU_HWPT_ALLOC.
        """
        self._check_open()
        return HwPageTable(
            self,
            device,
            dirty_tracking=dirty_tracking,
            nest_parent=nest_parent,
            pasid=pasid,
            faults=faults,
            data=data,
        )

    def map_anywhere(self, memory: Memory, offset: int, size: int, access: Access = Access.READ_WRITE) -> int:
        """Map as map_dma does, in one mapping, where the kernel finds room: never at 0; return the iova.

        Raises VfioError (ENOSPC) where there is no room, and what map_dma raises.
        """
        with self._lock:
            layout = self._layout("map_anywhere")
            memory._check_open()
            run = MappedRun(0, size, memory, offset, access)
            check_map_arguments(run, layout.page_sizes[0], (IovaRange(0, END - 1),))
            argument = abi.iommu_ioas_map(ioas_id=self.id, flags=_flags(access), length=size)
            argument.user_va = memory.address + offset
            self._map_calls += 1
            try:
                self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_MAP, argument)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise VfioError(
                        errno.ENOSPC,
                        "map_anywhere",
                        {"size": size},
                        "no range that may be used has room for it",
                        "Unmap some, or allow_iovas() more",
                    ) from error
                raise self._map_failure(error, run, 0, size, self._table.count) from error
            self._table.add(replace(run, iova=argument.iova))
            return argument.iova

    def allow_iovas(self, ranges: Sequence[IovaRange]) -> None:
        """Let map_anywhere choose from these addresses only, and refuse devices that reserve any of them.

        An empty sequence allows all again. map_dma is not bound by it.
        Raises InvalidArgument for a range that is empty or overlaps another, VfioError (EADDRINUSE) if a device
        that is attached reserves some. Source: IOMMU_IOAS_ALLOW_IOVAS.
        """
        self._check_open()
        ordered = sorted(ranges, key=lambda allowed: allowed.start)
        overlap = any(left.last >= right.start for left, right in pairwise(ordered))
        if overlap or any(not 0 <= allowed.start < allowed.last < END for allowed in ordered):
            told = ", ".join(map(str, ordered))
            meaning = "each needs two addresses or more, and none may overlap another"
            raise InvalidArgument(errno.EINVAL, f"allow iovas {told}", meaning=meaning)
        entries = [abi.iommu_iova_range(start=allowed.start, last=allowed.last) for allowed in ordered]
        array = (abi.iommu_iova_range * len(entries))(*entries)
        argument = abi.iommu_ioas_allow_iovas(ioas_id=self.id, num_iovas=len(ordered))
        argument.allowed_iovas = ctypes.addressof(array) if ordered else 0
        meanings = {
            errno.EADDRINUSE: ("a device that is attached reserves some of them", "Allow addresses in iova_ranges")
        }
        self.iommufd.call(abi.IOMMU_IOAS_ALLOW_IOVAS, argument, "allow iovas", {}, meanings)

    def copy_from(
        self, source: Ioas, source_iova: int, size: int, iova: int, access: Access = Access.READ_WRITE
    ) -> None:
        """Map here, at iova, what source maps from source_iova: pages are shared, neither pinned nor charged again.

        Mappings keep their boundaries; one that the range cuts is mapped here as far as the range goes. All or
        nothing. Both address spaces belong to one iommufd.
        Raises NotMapped for a hole in the source, InvalidArgument for more access than it has, and what map_dma
        raises. Source: IOMMU_IOAS_COPY.
        """
        arguments = {"source_iova": source_iova, "size": size, "iova": iova}
        with self._lock:
            unit = self._layout("copy").page_sizes[0]
            source._check_open()
            if source.iommufd is not self.iommufd or (source_iova | size | iova) % unit:
                meaning = f"both must belong to one iommufd, and addresses and size be multiples of {unit:#_x}"
                raise InvalidArgument(errno.EINVAL, "copy", arguments, meaning)
            runs = source._table.parts(source_iova, size)
            if sum(run.size for run in runs) != size:
                raise NotMapped(errno.ENOENT, "copy", arguments, "the source does not map all of it")
            if any(access & ~run.access for run in runs):
                raise InvalidArgument(errno.EPERM, "copy", arguments, "the source's mappings do not allow that access")
            copies = [replace(run, iova=run.iova - source_iova + iova, access=access) for run in runs]
            for run in copies:
                check_map_arguments(run, unit, self._layout("copy").iova_ranges)
            if self._table.overlapping(iova, size):
                raise AlreadyMapped(errno.EEXIST, "copy", arguments, "some of these addresses are mapped already")
            argument = abi.iommu_ioas_copy(dst_ioas_id=self.id, src_ioas_id=source.id, length=size)
            argument.flags = _flags(access) | abi.IOMMU_IOAS_MAP_FIXED_IOVA
            argument.dst_iova, argument.src_iova = iova, source_iova
            self._map_calls += 1
            try:
                self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_COPY, argument)
            except OSError as error:
                raise self._map_failure(error, copies[0], iova, size, self._table.count) from error
            for run in copies:
                self._table.add(run)

    def physical_range(self, iova: int, size: int | None = None) -> PhysicalRange:
        """Where in the host's physical memory what is mapped at iova lies, and how many bytes from there on lie one
        behind the other, in the same mapping, and size at most. For devices without an IOMMU. UNSAFE: see
        pyvfio.noiommu.

        The page stays there while it is mapped here and a device is attached. Stop the devices before unmapping it,
        detaching the last of them, or closing this: nothing else keeps them from memory that is someone else's then.
        Raises NotMapped; VfioError without CAP_SYS_RAWIO (EPERM), before Linux 7.3 (ENOTTY), and where no device
        without an IOMMU was the first to be attached (EOPNOTSUPP).
        Source: IOMMU_IOAS_NOIOMMU_GET_PA; drivers/iommu/iommufd/io_pagetable.c, iopt_get_phys.
        """
        self._check_open()
        arguments = {"iova": iova} if size is None else {"iova": iova, "size": size}
        size = END - 1 if size is None else size
        if not (0 <= iova < END - 1 and 0 < size < END):
            meaning = "an address of the device's, below 2**64 - 1, and a byte or more from there on"
            raise InvalidArgument(errno.EINVAL, "physical range", arguments, meaning)
        argument = abi.iommu_ioas_noiommu_get_pa(ioas_id=self.id, iova=iova, length=size)
        try:
            self.iommufd.call(abi.IOMMU_IOAS_NOIOMMU_GET_PA, argument, "physical range", arguments, _PHYSICAL)
        except VfioError as error:
            if error.errno == errno.EPERM:
                raise no_raw_io("physical range") from error
            if error.errno == errno.ENOENT:
                raise NotMapped(errno.ENOENT, "physical range", arguments, "nothing is mapped there") from error
            raise
        return PhysicalRange(argument.out_phys, argument.length)

    def physical_runs(self, iova: int, size: int) -> tuple[PhysicalRun, ...]:
        """All of size bytes from iova, in as few pieces as they lie in; offsets are from iova. UNSAFE.

        For how long, and what it raises: see physical_range(). NotMapped also for a hole.
        """

        def pieces() -> Iterator[PhysicalRun]:
            offset = 0
            while offset < size:
                found = self.physical_range(iova + offset, size - offset)
                yield PhysicalRun(offset, found.address, found.size)
                offset += found.size

        with self._lock:
            return joined(pieces())

    @property
    def huge_pages(self) -> bool:
        """Whether the IOMMU may use large pages where memory is contiguous. Source: IOMMU_OPTION_HUGE_PAGES."""
        option = self._huge_pages(abi.IOMMU_OPTION_OP_GET)
        self.iommufd.call(abi.IOMMU_OPTION, option, "huge_pages")
        return bool(option.val64)

    @huge_pages.setter
    def huge_pages(self, enabled: bool) -> None:
        """Raises VfioError (EINVAL) when disabling them while devices are attached and something is mapped."""
        option = self._huge_pages(abi.IOMMU_OPTION_OP_SET)
        option.val64 = int(enabled)
        meanings = {errno.EINVAL: ("the IOMMU's page tables may hold large pages", "Choose before mapping")}
        self.iommufd.call(abi.IOMMU_OPTION, option, "set huge_pages", {"enabled": enabled}, meanings)

    def _huge_pages(self, operation: int) -> abi.iommu_option:
        self._check_open()
        return abi.iommu_option(option_id=abi.IOMMU_OPTION_HUGE_PAGES, op=operation, object_id=self.id)

    def _layout(self, operation: str) -> IoasInfo:
        self._check_open()
        return self._info or self._ask_layout(operation)

    def _ask_layout(self, operation: str) -> IoasInfo:
        self._check_open()
        room = 8
        while True:
            array = (abi.iommu_iova_range * room)()
            argument = abi.iommu_ioas_iova_ranges(ioas_id=self.id, num_iovas=room)
            argument.allowed_iovas = ctypes.addressof(array)
            try:
                self.iommufd.call(abi.IOMMU_IOAS_IOVA_RANGES, argument, operation)
            except VfioError as error:
                if error.errno != errno.EMSGSIZE or argument.num_iovas <= room:
                    raise
                room = argument.num_iovas
                continue
            break
        # With nothing attached the unit is a byte; but the page is, of everything that can come.
        page_size = max(argument.out_iova_alignment, host_page_size())
        ranges = (IovaRange(entry.start, entry.last) for entry in array[: argument.num_iovas])
        self._info = IoasInfo((page_size,), tuple(ranges))
        return self._info

    def _map_call(self, run: MappedRun) -> tuple[MapCall, int]:
        fd, flags = self.iommufd.fd, _flags(run.access) | abi.IOMMU_IOAS_MAP_FIXED_IOVA
        if run.memory.fd is not None and self._can_map_files():
            file = abi.iommu_ioas_map_file(ioas_id=self.id, flags=flags, fd=run.memory.fd)
            return MapCall(fd, abi.IOMMU_IOAS_MAP_FILE, file, "start", "length"), run.offset
        memory = abi.iommu_ioas_map(ioas_id=self.id, flags=flags)
        return MapCall(fd, abi.IOMMU_IOAS_MAP, memory, "user_va", "length"), run.memory.address + run.offset

    def _can_map_files(self) -> bool:
        """Whether the kernel has IOMMU_IOAS_MAP_FILE (Linux 6.13), found out with a call that maps nothing."""
        if self._maps_files is None:
            try:
                self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_MAP_FILE, abi.iommu_ioas_map_file(fd=-1))
            except OSError as error:
                self._maps_files = error.errno != errno.ENOTTY
        return bool(self._maps_files)

    def _unmap_ioctl(self, iova: int, size: int) -> int:
        # Source: drivers/iommu/iommufd/io_pagetable.c, iopt_unmap_iova_range.
        argument = abi.iommu_ioas_unmap(ioas_id=self.id, iova=iova, length=size)
        self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_UNMAP, argument)
        return argument.length

    def _unmap_everything_ioctl(self) -> int:
        try:
            return self._unmap_ioctl(0, END - 1)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise

    def _map_failure(self, error: OSError, run: MappedRun, iova: int, size: int, count: int) -> VfioError:
        return map_failure(error, run, iova, size, count, self.kernel, per_user=True)

    def _layout_changed(self) -> None:
        """Called by a page table that comes or goes."""
        self._info = None

    def _devices_changed(self, device: IommufdDevice) -> None:
        """Called by a device that comes or goes."""
        self._info = None
        self._attached = [other for other in self._attached if other is not device]
        places = device._translations.values()
        if any(place is self or (not isinstance(place, Ioas) and place.ioas is self) for place in places):
            self._attached.append(device)

    def _release(self) -> None:
        try:
            if not self._inherited:
                for device in tuple(self._attached):
                    device._leave(self)
                self._destroy()
        finally:
            self._table.clear()
            if self._owns_iommufd:
                self.iommufd.close()

    def _destroy(self) -> None:
        try:
            self.iommufd.destroy(self.id, self.name)
        except VfioError:
            # Something that was attached through another descriptor keeps it: what is mapped need not stay.
            if self._table.count:
                self._unmap_everything_ioctl()
            raise

    def __repr__(self) -> str:
        return f"<Ioas {self.id}{' closed' if self._closed else ''}>"


def _flags(access: Access) -> int:
    return sum(flag for allowed, flag in _ACCESS_FLAGS.items() if allowed in access)
