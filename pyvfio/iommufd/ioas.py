"""Ioas: an IO address space of an iommufd, an AddressSpace."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from pyvfio.abi import iommufd as abi
from pyvfio.dma import (
    END,
    Access,
    IovaRange,
    MapCall,
    MappedRun,
    SucceedingSpace,
    check_map_arguments,
    check_target,
    map_failure,
)
from pyvfio.errors import AlreadyMapped, InvalidArgument, NotMapped, VfioError
from pyvfio.explain import is_refusal
from pyvfio.iommufd.addresses import IoasInfo, allow_iovas, ask_info, physical_pieces, physical_range
from pyvfio.iommufd.cdev import CdevDevice
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.iommufd.object import Translation
from pyvfio.iommufd.page_table import HwPageTable
from pyvfio.kernel import Kernel
from pyvfio.memory import DmaTarget
from pyvfio.noiommu import PhysicalRange, PhysicalRun, joined
from pyvfio.resource import require_kind

_ACCESS_FLAGS = {Access.READ: abi.IOMMU_IOAS_MAP_READABLE, Access.WRITE: abi.IOMMU_IOAS_MAP_WRITEABLE}


class Ioas(Translation, SucceedingSpace):
    """The DMA address space of the devices attached to it. An AddressSpace; a program uses it as it uses a Container.

    Devices are opened by their own nodes. A device without an IOMMU is opened only if the program asks for it: what is
    mapped is pinned for it, and physical_range() says where it lies. There is no mapping limit. What is mapped while no
    device is attached is pinned when the first one is. Pinned memory is charged to the user, for all processes of the
    user together, once for each map_dma even if it is copied to other address spaces. Safe from several threads: the
    iommufd and all of its objects share one lock, but each device has another one for itself and its parts: register
    accesses and interrupts do not wait for a long map_dma(), only attaching and closing a device does.

    iommufd: the iommufd that the address space belongs to.
    """

    def __init__(
        self, iommufd: Iommufd | None = None, *, kernel: Kernel | None = None, ioas_id: int | None = None
    ) -> None:
        """Make an address space in iommufd, as its child.

        iommufd: None to open one in kernel for this address space alone, which is closed with it. ioas_id: the number
        of one that is there already; see from_id. Raises ClosedError, or VfioError that says what is missing.
        Source: IOMMU_IOAS_ALLOC.
        """
        self._owns_iommufd, self._given_id = iommufd is None, ioas_id
        self._info: IoasInfo | None = None
        # How many devices and page tables had come and gone when the kernel was asked.
        self._changes_known = 0
        if iommufd is not None:
            require_kind(iommufd, Iommufd, "allocate address space")
        super().__init__(iommufd or Iommufd(kernel=kernel))
        if self._owns_iommufd:
            self._speak_for_parent()
        with self._allocation():
            self.id = self._obtain()

    def _obtain(self) -> int:
        """The number of the address space, which the kernel makes now if it has none. Raises VfioError."""
        if self._given_id is not None:
            return self._given_id
        argument = abi.iommu_ioas_alloc()
        self.iommufd.call(abi.IOMMU_IOAS_ALLOC, argument, "allocate address space")
        return argument.out_ioas_id

    @classmethod
    def from_id(cls, iommufd: Iommufd, ioas_id: int) -> Self:
        """The address space of that number, which a process before this one has made in iommufd, and leaves to this.

        What is mapped there is in mappings() when take_up() has found it. SharedIoas is for one that stays another's.
        """
        return cls(iommufd, ioas_id=ioas_id)

    def hand_over(self) -> None:
        """Close it with its devices, and with an iommufd of its own, and change nothing: see Iommufd.hand_over()."""
        self._hand_over()

    @property
    def name(self) -> str:
        """What messages call it: IOAS N."""
        return f"IOAS {self.id}"

    @property
    def mappings_left(self) -> int | None:
        """None: an iommufd sets no limit."""
        self.require_open()
        return None

    @property
    def devices(self) -> tuple[CdevDevice, ...]:
        """The devices that are attached, to this or to a page table of it, in the order in which they were."""
        with self._lock:
            attached = self.iommufd.attachments.devices(self)
        return tuple(device for device in attached if isinstance(device, CdevDevice))

    def open_device(
        self, address: str, *, vf_token: uuid.UUID | None = None, unsafe_noiommu: bool = False
    ) -> CdevDevice:
        """Open a device by its PCI address, and attach it. It is the address space's child.

        vf_token: as for Group.open_device, from Linux 6.17 on. unsafe_noiommu: take a device without an IOMMU too; see
        CdevDevice. Raises NoIommuError, DeviceNotBound, DeviceBusy, VfTokenRefused, or VfioError that says what stands
        in the way. A failure leaves nothing open.
        """
        self.require_open()
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
        """Make an IO page table of its own for devices like device. It holds all that this address space maps.

        dirty_tracking: for HwPageTable.track_dirty(). nest_parent: for page tables of the program's own over it, by
        HwPageTable.nested(), and for HwPageTable.viommu(). pasid: for devices that attach PASIDs. faults: where the
        page faults of its devices go; nothing nests on it then. data: what the IOMMU's driver is told, if it takes
        anything. Attach devices to it with device.attach(). It is the address space's child.
        Raises VfioError: EOPNOTSUPP where the IOMMU has no such page table. Source: IOMMU_HWPT_ALLOC.
        """
        self.require_open()
        require_kind(device, IommufdDevice, "make page table")
        return HwPageTable(
            self,
            device,
            dirty_tracking=dirty_tracking,
            nest_parent=nest_parent,
            pasid=pasid,
            faults=faults,
            data=data,
        )

    def map_anywhere(self, memory: DmaTarget, offset: int, size: int, access: Access = Access.READ_WRITE) -> int:
        """Let the devices reach size bytes of memory, from offset, at an address that the kernel chooses; return it.

        The address is never 0. Apart from that this is map_dma() without a granularity: it makes one mapping, and
        raises the same, and VfioError (ENOSPC) where no range has room.
        """
        check_target(memory, "map_anywhere", None, size)
        with self._lock:
            layout = self._layout("map_anywhere")
            memory.require_open()
            run = MappedRun(0, size, memory, offset, access)
            check_map_arguments(run, layout.page_sizes[0], (IovaRange(0, END - 1),), "map_anywhere")
            # The kernel writes the address into the argument, where the table finds it whatever comes after the call.
            call = self._calls_of(run, 0)
            with memory.lock:
                try:
                    self._table.await_place(run, lambda: call.iova)
                    self._map_calls += 1
                    call.make(self.kernel)
                    self._table.placed()
                    return call.iova
                except BaseException as error:
                    iova = call.iova
                    self._table.placed()
                    if not is_refusal(error):
                        if iova:
                            self._take_back(replace(run, iova=iova), 1, 1, error)
                        raise
                    if error.errno == errno.ENOSPC:
                        raise VfioError(
                            errno.ENOSPC,
                            "map_anywhere",
                            {"size": size},
                            "no range that may be used has room for it",
                            "Unmap some, or allow_iovas() more",
                        ) from error
                    raise self._map_failure(error, run, None, size, self._table.count, "map_anywhere") from error

    def allow_iovas(self, ranges: Sequence[IovaRange]) -> None:
        """Let map_anywhere() choose from these addresses only, and refuse devices that reserve any of them.

        An empty sequence allows all again. map_dma() may map elsewhere.
        Raises InvalidArgument for a range that is empty or overlaps another, VfioError (EADDRINUSE) if a device that is
        attached reserves some of them. Source: IOMMU_IOAS_ALLOW_IOVAS.
        """
        self.require_open()
        allow_iovas(self.iommufd, self.id, ranges)

    def copy_from(
        self, source: Ioas, source_iova: int, size: int, iova: int, access: Access = Access.READ_WRITE
    ) -> None:
        """Map here, at iova, what source maps from source_iova on: size bytes, for the access that is given.

        The two share the pages, which are neither pinned nor charged again. Mappings keep their boundaries; of one that
        the range cuts, the part within the range is mapped here. Both address spaces belong to one iommufd. A failure
        maps nothing.
        Raises NotMapped for a hole in the source, InvalidArgument for access that the source does not have, and what
        map_dma() raises. Source: IOMMU_IOAS_COPY.
        """
        require_kind(source, Ioas, "copy")
        arguments = {"source_iova": source_iova, "size": size, "iova": iova}
        with self._lock:
            unit = self._layout("copy").page_sizes[0]
            source.require_open()
            if source.iommufd is not self.iommufd or (source_iova | size | iova) % unit:
                meaning = f"both must belong to one iommufd, and addresses and size be multiples of {unit:#_x}"
                raise InvalidArgument(errno.EINVAL, "copy", arguments, meaning)
            runs = source.mappings_in(source_iova, size)
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
            try:
                self._table.enter(*copies)
                self._map_calls += 1
                self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_COPY, argument)
                self._table.trust(iova, size)
            except BaseException as error:
                if is_refusal(error):
                    self._table.remove(iova, size)
                    raise self._map_failure(error, copies[0], iova, size, self._table.count, "copy") from error
                # All of it or nothing was mapped: what is not there is found out.
                try:
                    self.unmap_by(self._unmap_ioctl, iova, size)
                except VfioError as failure:
                    error.add_note(f"Taking the copy back failed too, it may stay mapped: {failure}")
                raise

    def physical_range(self, iova: int, size: int | None = None) -> PhysicalRange:
        """Where in the host's physical memory the bytes lie that are mapped at iova. UNSAFE: see pyvfio.noiommu.

        The result has as many bytes as are contiguous there, in the same mapping; size at most. It is for devices
        without an IOMMU. The pages stay there while they are mapped here and a device is attached. Stop the devices
        before unmapping them, before detaching the last device, and before closing this: afterwards the memory belongs
        to somebody else, and nothing keeps the devices from it.
        Raises InvalidArgument; NotMapped; VfioError without CAP_SYS_RAWIO (EPERM), before Linux 7.3 (ENOTTY), and where
        the first device that was attached has an IOMMU (EOPNOTSUPP).
        Source: IOMMU_IOAS_NOIOMMU_GET_PA; drivers/iommu/iommufd/io_pagetable.c, iopt_get_phys.
        """
        self.require_open()
        return physical_range(self.iommufd, self.id, iova, size)

    def physical_runs(self, iova: int, size: int) -> tuple[PhysicalRun, ...]:
        """Where in the host's physical memory all of size bytes from iova on lie, in as few runs as possible. UNSAFE.

        The offset of each run is counted from iova. How long the bytes stay there, and what is raised: as for
        physical_range(). NotMapped is raised for a hole too.
        """
        self.require_open()
        with self._lock:
            return joined(physical_pieces(self.iommufd, self.id, iova, size))

    @property
    def huge_pages(self) -> bool:
        """Whether the IOMMU may use large pages where memory is contiguous; True unless it was changed.

        Setting it to False raises VfioError (EINVAL) while a device is attached and something is mapped.
        Source: IOMMU_OPTION_HUGE_PAGES.
        """
        option = self._huge_pages(abi.IOMMU_OPTION_OP_GET)
        self.iommufd.call(abi.IOMMU_OPTION, option, "huge_pages")
        return bool(option.val64)

    @huge_pages.setter
    def huge_pages(self, enabled: bool) -> None:
        option = self._huge_pages(abi.IOMMU_OPTION_OP_SET)
        option.val64 = int(enabled)
        meanings = {errno.EINVAL: ("the IOMMU's page tables may hold large pages", "Choose before mapping")}
        self.iommufd.call(abi.IOMMU_OPTION, option, "set huge_pages", {"enabled": enabled}, meanings)

    def _huge_pages(self, operation: int) -> abi.iommu_option:
        self.require_open()
        return abi.iommu_option(option_id=abi.IOMMU_OPTION_HUGE_PAGES, op=operation, object_id=self.id)

    def _layout(self, operation: str) -> IoasInfo:
        self.require_open()
        if self._info is None or self._changes_known != self.iommufd.attachments.changes:
            return self._ask_layout(operation)
        return self._info

    def _ask_layout(self, operation: str) -> IoasInfo:
        self.require_open()
        self._info = ask_info(self.iommufd, self.id, operation)
        self._changes_known = self.iommufd.attachments.changes
        return self._info

    @property
    def is_iommufd(self) -> bool:
        return True

    @property
    def may_hold_mappings(self) -> bool:
        return self._given_id is not None or self._table.count > 0

    def _map_call(self, run: MappedRun) -> MapCall:
        return self._calls_of(run, abi.IOMMU_IOAS_MAP_FIXED_IOVA)

    def _calls_of(self, run: MappedRun, fixed: int) -> MapCall:
        """The calls that map run, by its file if it has one. fixed: IOMMU_IOAS_MAP_FIXED_IOVA, or 0 for a place that
        the kernel chooses. Raises VfioError if there is none for such memory."""
        fd, flags, memory = self.iommufd.fd, _flags(run.access) | fixed, run.memory
        by_address: MapCall | None = None
        if memory.is_pinnable:
            argument = abi.iommu_ioas_map(ioas_id=self.id, flags=flags)
            address = memory.address + run.offset
            by_address = MapCall(run, fd, abi.IOMMU_IOAS_MAP, argument, "user_va", address, "length")
        if memory.fd is not None and self.iommufd.maps_files():
            file = abi.iommu_ioas_map_file(ioas_id=self.id, flags=flags, fd=memory.fd)
            first, otherwise = memory.file_offset + run.offset, None if memory.has_own_file else by_address
            return MapCall(run, fd, abi.IOMMU_IOAS_MAP_FILE, file, "start", first, "length", otherwise=otherwise)
        if by_address is None:
            raise VfioError(
                errno.EOPNOTSUPP,
                "map_dma",
                {"iova": run.iova, "size": run.size},
                f"{memory!r}: an iommufd takes registers only as a dma-buf, and this kernel gives or takes none",
                "Linux 7.0 does, built with peer-to-peer DMA; a container of type1 takes them on every kernel",
            )
        return by_address

    def _map_nothing_ioctl(self, iova: int, size: int, address: int) -> None:
        flags = abi.IOMMU_IOAS_MAP_READABLE | abi.IOMMU_IOAS_MAP_FIXED_IOVA
        argument = abi.iommu_ioas_map(ioas_id=self.id, flags=flags, user_va=address, iova=iova, length=size)
        self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_IOAS_MAP, argument)

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

    def _map_failure(
        self, error: OSError, run: MappedRun, iova: int | None, size: int, count: int, operation: str = "map_dma"
    ) -> VfioError:
        held = (count, None)
        return map_failure(error, run, iova, size, self.kernel, held=held, per_user=True, operation=operation)

    def _release(self) -> None:
        try:
            super()._release()
        finally:
            if self._owns_iommufd:
                self.iommufd.close()
        self._table.clear()

    def _destroy(self) -> None:
        try:
            super()._destroy()
        except VfioError as error:
            if not self._table.count:
                raise
            # A device that was attached through another descriptor may keep it: what is mapped need not stay. A device
            # whose registers are mapped here is attached as long as they are.
            has_registers = any(not run.memory.is_pinnable for run in self._table.runs())
            self._unmap_everything_ioctl()
            self._table.clear()
            if error.errno != errno.EBUSY or not has_registers:
                raise
            super()._destroy()


def _flags(access: Access) -> int:
    """The IOMMU_IOAS_MAP_* flags that allow the access."""
    return sum(flag for allowed, flag in _ACCESS_FLAGS.items() if allowed in access)
