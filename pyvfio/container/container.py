"""Container: /dev/vfio/vfio with the type1 IOMMU, an AddressSpace."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import uuid
from dataclasses import dataclass
from typing import Self

from pyvfio.abi import vfio
from pyvfio.container.dirty import ContainerDirtyTracking
from pyvfio.container.group import Group
from pyvfio.container.meanings import ATTACH, DETACH, GET_INFO, SET_IOMMU
from pyvfio.device import Device
from pyvfio.dma import END, IovaRange, MapCall, MappedRun, MappingSpace, map_failure
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.explain import explain
from pyvfio.kernel import Kernel, LinuxKernel, chain, query
from pyvfio.noiommu import no_iommu
from pyvfio.open_errors import open_failure
from pyvfio.reserved import firmware_claim
from pyvfio.resource import Resource
from pyvfio.sysfs import vfio_device

# What a group that firmware claims is refused with: since Linux 6.7, and before.
_FIRMWARE = (errno.EINVAL, errno.EPERM)
# What iommufd answers, which has no limit of its own: drivers/iommu/iommufd/vfio_compat.c.
_NO_MAPPING_LIMIT = 0xFFFF_FFFF
# Kernels before 6.18 lose a mapping of the last page of all: it can be neither found nor unmapped (vfio_find_dma).
_LAST = END - 0x1_0000 - 1


class IommuType(enum.IntEnum):
    """Which rules a container follows; the values of VFIOSET_IOMMU."""

    TYPE1 = vfio.VFIO_TYPE1_IOMMU
    TYPE1v2 = vfio.VFIO_TYPE1v2_IOMMU
    NOIOMMU = vfio.VFIO_NOIOMMU_IOMMU
    """None at all: devices work, and nothing can be mapped for them. Chosen by groups that have no IOMMU."""


@dataclass(frozen=True, slots=True)
class IommuInfo:
    """What VFIO_IOMMUGET_INFO says. Sizes in bytes.

    mappings_left: None where the kernel sets no limit or, before Linux 5.10, does not tell. dirty_page_size and
    largest_dirty_bitmap: None without dirty tracking.
    """

    page_sizes: tuple[int, ...]
    iova_ranges: tuple[IovaRange, ...]
    mappings_left: int | None
    dirty_page_size: int | None
    largest_dirty_bitmap: int | None


class Container(MappingSpace):
    """The DMA address space of the groups attached to it. An AddressSpace.

    Also of iommufd's compatibility: path="/dev/iommu", or /dev/vfio/vfio where iommufd provides it. That one has no
    mapping limit and no dirty tracking, and takes what the addresses of a device reserve out of iova_ranges when
    the device is opened, not when its group is attached. Safe from several threads: one lock for the container, its
    groups and devices.
    """

    def __init__(
        self, *, kernel: Kernel | None = None, path: str = "/dev/vfio/vfio", iommu_type: IommuType | None = None
    ) -> None:
        """iommu_type: which rules to ask for; None for type1v2 or, where there is none, type1.

        Raises VfioError that says what is missing if the node cannot be opened.
        """
        kernel = kernel or LinuxKernel()
        try:
            fd = kernel.open(path, os.O_RDWR)
        except OSError as error:
            raise open_failure(error, "open container", path, "vfio") from error
        self._take(kernel, fd, path, iommu_type)

    @classmethod
    def from_fd(cls, fd: int, *, kernel: Kernel | None = None, iommu_type: IommuType | None = None) -> Self:
        """A container of a descriptor that is open already, received from another process for example.

        Takes fd over: it is closed with the container, or here when this fails. iommu_type: the one its owner has
        set; None if no group is attached yet. What its owner has mapped is not in mappings(), but unmap_everything()
        takes it back. Raises VfioError if fd is no container.
        """
        container = cls.__new__(cls)
        kernel = kernel or LinuxKernel()
        try:
            if kernel.ioctl(fd, vfio.VFIO_GET_API_VERSION) != vfio.VFIO_API_VERSION:
                raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
            container._take(kernel, fd, f"fd {fd}", iommu_type)
            if iommu_type is not None:
                container.iommu_type = iommu_type
                container._info = container._query_info()
        except OSError as error:
            container._closed = True
            kernel.close(fd)
            if isinstance(error, VfioError):
                raise
            meaning = "it is no VFIO container"
            raise VfioError(error.errno or errno.EIO, "container", {"fd": fd}, meaning) from error
        return container

    def _take(self, kernel: Kernel, fd: int, path: str, iommu_type: IommuType | None) -> None:
        self.kernel = kernel
        self.fd = fd
        self.path = path
        self.iommu_type: IommuType | None = None
        self._wanted = iommu_type
        self._info: IommuInfo | None = None
        self._is_info_old = False
        super().__init__()

    @property
    def name(self) -> str:
        groups = ", ".join(str(group.number) for group in self.groups)
        return f"container of group {groups}" if groups else "container"

    def open_group(self, number: int) -> Group:
        """Open a group and attach it. It is the container's child, and closed when attaching fails."""
        self._check_open()
        group = Group(number, kernel=self.kernel, container=self)
        try:
            self.attach(group)
        except BaseException:
            group.close()
            raise
        return group

    def open_device(self, address: str, *, vf_token: uuid.UUID | None = None) -> Device:
        """Open a device by its PCI address, with its group, which stays open as long as the container.

        vf_token: see Group.open_device. Raises DeviceNotBound, GroupNotViable, GroupBusy, VfTokenRefused.
        """
        self._check_open()
        info = vfio_device(self.kernel, address)
        assert info.group is not None
        opened = {group.number: group for group in self.groups}
        group = opened.get(info.group) or self.open_group(info.group)
        try:
            device = group.open_device(info.address, vf_token=vf_token)
        except BaseException:
            if info.group not in opened:
                group.close()
            raise
        # iommufd's compatibility puts a device behind the IOMMU only now, and learns what it reserves.
        self._is_info_old = True
        return device

    def attach(self, group: Group) -> None:
        """Put the group's devices behind this container, whose child it is from now on; the first group also chooses
        the IOMMU type.

        Existing mappings are entered for the new group too. A failure leaves the group out, and whose child it was.
        Raises GroupNotViable. Source: VFIO_GROUP_SET_CONTAINER, VFIOSET_IOMMU.
        """
        self._check_open()
        with self._lock:
            group.require_viable()
            try:
                self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_SET_CONTAINER, ctypes.c_int32(self.fd))
            except OSError as error:
                raise self._attach_failure(error, group) from error
            try:
                if self.iommu_type is None:
                    self.iommu_type = self._set_iommu(group)
                if self.iommu_type is not IommuType.NOIOMMU:
                    self._info = self._query_info()
                self._is_info_old = False
            except OSError:
                self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
                if not any(other is not group for other in self.groups):
                    self.iommu_type = None
                raise
            if group._parent is not self:
                group._move(self)

    def detach(self, group: Group) -> None:
        """Take a group whose devices are all closed out of the container. It stays open, a child of nobody.

        attach() it again, here or elsewhere, or close it. As with closing it, mappings stay as long as other groups
        do; with the last group go all of them and the choice of IOMMU type. A failure changes nothing.
        Raises InvalidArgument if the group is not in this container, DeviceBusy while a device of it is open.
        Source: VFIO_GROUP_UNSET_CONTAINER.
        """
        self._check_open()
        with self._lock:
            operation = f"detach group {group.number}"
            if group not in self.groups:
                raise InvalidArgument(errno.EINVAL, operation, meaning="it is not in this container")
            group.require_no_devices(operation)
            try:
                self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
            except OSError as error:
                raise explain(error, operation, {}, DETACH) from error
            group._move(None)
            self._group_gone()

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those attached, and those made for it and not attached yet."""
        return tuple(child for child in self._children if isinstance(child, Group))

    @property
    def mappings_left(self) -> int | None:
        with self._lock:
            return self._ask_layout("mappings_left").mappings_left

    def track_dirty(self) -> ContainerDirtyTracking:
        """Begin to note which pages devices write; close it to end that. One at a time.

        type1v2 has no help from hardware: every page that is mapped reads as dirty, always.
        Raises VfioError where there is no dirty tracking: type1, and iommufd's compatibility.
        """
        with self._lock:
            info = self._layout("track_dirty")
            page_size = info.dirty_page_size or info.page_sizes[0]
            return ContainerDirtyTracking(self, page_size, info.largest_dirty_bitmap or 0)

    def _map_call(self, run: MappedRun) -> tuple[MapCall, int]:
        # Source: drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map.
        argument = vfio.vfio_iommu_type1_dma_map(flags=int(run.access))
        call = MapCall(self.fd, vfio.VFIO_IOMMU_MAP_DMA, argument, "vaddr", "size")
        return call, run.memory.address + run.offset

    def _map_failure(self, error: OSError, run: MappedRun, iova: int, size: int, count: int) -> VfioError:
        # Only a container of iommufd's tells no size of dirty bitmaps.
        is_iommufd = self._info is not None and self._info.largest_dirty_bitmap is None
        return map_failure(error, run, iova, size, count, self.kernel, per_user=is_iommufd)

    def _unmap_ioctl(self, iova: int, size: int) -> int:
        # Source: drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_unmap.
        argument = vfio.vfio_iommu_type1_dma_unmap(iova=iova, size=size)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        return argument.size

    def _unmap_everything_ioctl(self) -> int:
        argument = vfio.vfio_iommu_type1_dma_unmap(flags=vfio.VFIO_DMA_UNMAP_FLAG_ALL)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        return argument.size

    def _layout(self, operation: str) -> IommuInfo:
        self._check_open()
        if self.iommu_type is IommuType.NOIOMMU:
            raise no_iommu(operation)
        if self._info is None:
            raise VfioError(
                errno.EINVAL,
                operation,
                meaning="the container has no IOMMU yet",
                advice="Attach a group first",
            )
        return self._ask_layout(operation) if self._is_info_old else self._info

    def _ask_layout(self, operation: str) -> IommuInfo:
        self._is_info_old = False
        self._layout(operation)
        self._info = self._query_info()
        return self._info

    def _set_iommu(self, group: Group) -> IommuType:
        kinds = (self._wanted,) if self._wanted else (IommuType.TYPE1v2, IommuType.TYPE1)
        for kind in (IommuType.NOIOMMU,) if group.is_noiommu else kinds:
            if self.kernel.ioctl(self.fd, vfio.VFIO_CHECK_EXTENSION, kind) > 0:
                try:
                    self.kernel.ioctl(self.fd, vfio.VFIO_SET_IOMMU, kind)
                except OSError as error:
                    operation = f"set IOMMU {kind.name}"
                    if error.errno in _FIRMWARE and (claim := firmware_claim(self.kernel, group.number, operation)):
                        raise claim from error
                    raise explain(error, operation, {}, SET_IOMMU) from error
                return kind
        raise VfioError(errno.ENODEV, "set IOMMU", {}, *SET_IOMMU[errno.ENODEV])

    def _query_info(self) -> IommuInfo:
        try:
            info, data = query(self.kernel, self.fd, vfio.VFIO_IOMMU_GET_INFO, vfio.vfio_iommu_type1_info)
        except OSError as error:
            raise explain(error, "get IOMMU info", {}, GET_INFO) from error
        ranges: list[IovaRange] = []
        left = dirty_page_size = largest_dirty_bitmap = None
        for capability in chain(data, info.cap_offset if info.flags & vfio.VFIO_IOMMU_INFO_CAPS else 0):
            match capability.id:
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                    head = capability.read(vfio.vfio_iommu_type1_info_cap_iova_range)
                    entries = capability.read_array(vfio.vfio_iova_range, ctypes.sizeof(head), head.nr_iovas)
                    ranges = [IovaRange(entry.start, min(entry.end, _LAST)) for entry in entries]
                case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                    available = capability.read(vfio.vfio_iommu_type1_info_dma_avail).avail
                    left = None if available == _NO_MAPPING_LIMIT else available
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                    migration = capability.read(vfio.vfio_iommu_type1_info_cap_migration)
                    dirty_page_size = migration.pgsize_bitmap & -migration.pgsize_bitmap
                    largest_dirty_bitmap = migration.max_dirty_bitmap_size
        page_sizes = info.iova_pgsizes if info.flags & vfio.VFIO_IOMMU_INFO_PGSIZES else 4096
        return IommuInfo(
            tuple(1 << bit for bit in range(64) if page_sizes >> bit & 1),
            tuple(ranges) or (IovaRange(0, _LAST),),
            left,
            dirty_page_size,
            largest_dirty_bitmap,
        )

    def _attach_failure(self, error: OSError, group: Group) -> VfioError:
        code = error.errno or errno.EIO
        if code in (errno.EPERM, errno.EBUSY) and not group.viable:
            return group.not_viable()
        if code in _FIRMWARE and (claim := firmware_claim(self.kernel, group.number, f"attach group {group.number}")):
            return claim
        return explain(error, f"attach group {group.number}", {}, ATTACH)

    def _child_closed(self, child: Resource) -> None:
        if isinstance(child, Group):
            self._group_gone()

    def _group_gone(self) -> None:
        # What the group alone reserved can be used now.
        self._is_info_old = self._info is not None
        if not self.groups:
            # With its last group the container loses its IOMMU: the next one has to choose it again.
            self._forget_mappings()
            self.iommu_type = self._info = None

    def _forget_mappings(self) -> None:
        # The last group took every mapping with it; where a copy of its descriptor lives on elsewhere, they must go by
        # name.
        try:
            if self._table.count and not self._inherited:
                runs = self._table.runs()
                argument = vfio.vfio_iommu_type1_dma_unmap(iova=runs[0].iova, size=runs[-1].end - runs[0].iova)
                self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        except OSError as error:
            # EINVAL: no IOMMU any more, so nothing is mapped.
            if error.errno != errno.EINVAL:
                raise
        finally:
            self._table.clear()

    def _release(self) -> None:
        try:
            self._forget_mappings()
        finally:
            self.kernel.close(self.fd)

    def __repr__(self) -> str:
        return f"<Container {self.path}{' closed' if self._closed else ''}>"
