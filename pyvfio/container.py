"""Container: /dev/vfio/vfio with the type1 IOMMU, an AddressSpace."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pyvfio.abi import vfio
from pyvfio.address_space import Access, IovaRange, MappedRun
from pyvfio.capabilities import chain, query
from pyvfio.device import Device
from pyvfio.errors import AlreadyMapped, DeviceNotBound, InvalidArgument, NotMapped, ShortUnmap, VfioError
from pyvfio.group import Group
from pyvfio.host.pci import pci_device
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.map_errors import check_map_arguments, map_failure
from pyvfio.mappings import MappingTable
from pyvfio.memory import Memory
from pyvfio.resource import Resource

_END = 1 << 64


class IommuType(enum.IntEnum):
    """Which type1 rules a container follows; the values of VFIO_SET_IOMMU."""

    TYPE1 = vfio.VFIO_TYPE1_IOMMU
    TYPE1v2 = vfio.VFIO_TYPE1v2_IOMMU


@dataclass(frozen=True, slots=True)
class DmaCalls:
    """How many MAP_DMA and UNMAP_DMA calls the kernel has answered, refusals included."""

    map: int = 0
    unmap: int = 0


@dataclass(frozen=True, slots=True)
class IommuInfo:
    """What VFIO_IOMMU_GET_INFO says. Sizes in bytes; mappings_left None before Linux 5.10."""

    page_sizes: tuple[int, ...]
    iova_ranges: tuple[IovaRange, ...]
    mappings_left: int | None
    dirty_page_size: int | None
    largest_dirty_bitmap: int | None


class Container(Resource):
    """The DMA address space of the groups attached to it. An AddressSpace.

    type1v2 is asked for first: type1 may unmap more than it was asked to. Safe from several threads: one lock for the
    container, its groups and devices.
    """

    def __init__(self, *, kernel: Kernel | None = None, path: str = "/dev/vfio/vfio") -> None:
        """Raises VfioError that says what is missing if the node cannot be opened."""
        self.kernel = kernel or LinuxKernel()
        self.path = path
        self.iommu_type: IommuType | None = None
        self._table = MappingTable()
        self._info: IommuInfo | None = None
        self._map_calls = self._unmap_calls = 0
        try:
            self.fd = self.kernel.open(path, os.O_RDWR)
        except OSError as error:
            code = error.errno or errno.EIO
            advice = "As root: modprobe vfio" if code in (errno.ENOENT, errno.ENODEV) else ""
            raise VfioError(code, "open container", {"node": path}, advice=advice) from error
        super().__init__()

    @property
    def name(self) -> str:
        groups = ", ".join(str(child.number) for child in self._children if isinstance(child, Group))
        return f"container of group {groups}" if groups else "container"

    @property
    def calls(self) -> DmaCalls:
        """Counted since the container was opened."""
        return DmaCalls(self._map_calls, self._unmap_calls)

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

    def open_device(self, address: str) -> Device:
        """Open a device by its PCI address, with its group, which stays open as long as the container.

        Raises DeviceNotBound, GroupNotViable, GroupBusy.
        """
        self._check_open()
        info = pci_device(self.kernel, address)
        if not info.has_vfio_driver or info.group is None:
            missing = "no IOMMU group" if info.group is None else f"driver {info.driver or 'none'}"
            raise DeviceNotBound(
                errno.ENODEV,
                f"open device {address}",
                meaning=f"it has {missing}, so VFIO does not know it",
                advice="Turn the IOMMU on (intel_iommu=on)" if info.group is None else f"pyvfio bind {address}",
            )
        opened = {child.number: child for child in self._children if isinstance(child, Group)}
        group = opened.get(info.group) or self.open_group(info.group)
        try:
            return group.open_device(info.address)
        except BaseException:
            if info.group not in opened:
                group.close()
            raise

    def attach(self, group: Group) -> None:
        """Put the group's devices behind this container; the first group also chooses the IOMMU type.

        Existing mappings are entered for the new group too. A failure leaves the group out.
        Raises GroupNotViable. Source: VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU.
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
                    self.iommu_type = self._set_iommu()
                self._info = self._query_info()
            except OSError:
                self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
                if not self._children or self._children == [group]:
                    self.iommu_type = None
                raise

    def map_dma(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        """See AddressSpace. Source: VFIO_IOMMU_MAP_DMA; drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map."""
        run = MappedRun(iova, size, memory, offset, access, granularity)
        with self._lock:
            info = self._require_iommu("map_dma")
            memory._check_open()
            check_map_arguments(run, info.page_sizes[0], info.iova_ranges)
            if run.end == _END:
                # Kernels before 6.18 lose such a mapping: it can be neither found nor unmapped (vfio_find_dma).
                raise InvalidArgument(
                    errno.EOVERFLOW,
                    "map_dma",
                    {"iova": iova, "size": size},
                    "a type1 mapping must not reach the very end of the 64-bit space",
                    f"Leave out the last page, {_END - info.page_sizes[0]:#_x}",
                )
            if other := self._table.overlapping(iova, size):
                raise AlreadyMapped(
                    errno.EEXIST,
                    "map_dma",
                    {"iova": iova, "size": size},
                    f"{other.iova:#_x}-{other.end - 1:#_x} is mapped already: {other.memory!r} at {other.offset:#_x}",
                )
            self._map(run)
            self._table.add(run)

    def _map(self, run: MappedRun) -> None:
        argument = vfio.vfio_iommu_type1_dma_map(flags=int(run.access))
        ioctl, fd, request = self.kernel.ioctl, self.fd, vfio.VFIO_IOMMU_MAP_DMA
        distance = run.memory.address + run.offset - run.iova
        iova = run.iova
        try:
            for part in run.parts():
                argument.size = part.step
                # This loop is what plugging memory costs beyond the kernel's work.
                for iova in part:
                    argument.iova = iova
                    argument.vaddr = iova + distance
                    ioctl(fd, request, argument)
            self._map_calls += run.mappings
        except OSError as error:
            mapped = replace(run, size=iova - run.iova)
            made = mapped.mappings if mapped.size else 0
            self._map_calls += made + 1
            failure = map_failure(error, iova, argument.size, self._table.count + made, self.kernel)
            if made:
                self._undo_map(mapped, failure)
            raise failure from error

    def _undo_map(self, mapped: MappedRun, failure: VfioError) -> None:
        self._table.add(mapped)
        try:
            self._unmap(mapped.iova, mapped.size)
        except OSError as error:
            failure.add_note(f"Taking back what this call had mapped failed too, it stays mapped: {error}")

    def unmap_dma(self, iova: int, size: int) -> int:
        """See AddressSpace. Source: VFIO_IOMMU_UNMAP_DMA; drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_unmap."""
        with self._lock:
            info = self._require_iommu("unmap_dma")
            arguments = {"iova": iova, "size": size}
            if size <= 0 or iova < 0 or iova + size > _END or (iova | size) % info.page_sizes[0]:
                raise NotMapped(
                    errno.EINVAL, "unmap_dma", arguments, f"not a range in units of {info.page_sizes[0]:#_x}"
                )
            if cut := self._table.bisected(iova, size):
                raise NotMapped(
                    errno.EINVAL,
                    "unmap_dma",
                    arguments,
                    f"it would cut a mapping of {cut.iova:#_x}-{cut.end - 1:#_x}",
                    f"Mappings come off whole; these are {cut.granularity or cut.size:#_x} bytes each",
                )
            if not self._table.covered(iova, size):
                raise NotMapped(errno.ENOENT, "unmap_dma", arguments, "nothing is mapped there")
            return self._unmap(iova, size)

    def unmap_all(self) -> int:
        """See AddressSpace. One call over everything this object has mapped."""
        with self._lock:
            self._require_iommu("unmap_all")
            runs = self._table.runs()
            if not runs:
                return 0
            return self._unmap(runs[0].iova, runs[-1].end - runs[0].iova)

    def _unmap(self, iova: int, size: int) -> int:
        expected = self._table.covered(iova, size)
        returned = self._unmap_ioctl(iova, size)
        if returned == expected:
            self._table.remove(iova, size)
            return returned
        gone = returned + self._unmap_one_by_one(iova, size)
        raise ShortUnmap(
            errno.EIO,
            "unmap_dma",
            {"iova": iova, "size": size},
            f"the kernel unmapped {returned:#_x} bytes where {expected:#_x} were mapped",
            "All of it has been unmapped one by one"
            if gone == expected
            else "The container can no longer be relied on",
            remaining=max(expected - gone, 0),
        )

    def _unmap_one_by_one(self, iova: int, size: int) -> int:
        """Find out what a short unmap left, by unmapping each mapping that may be left."""
        gone = 0
        for part in list(_single_mappings(self._table.runs(), iova, iova + size)):
            gone += self._unmap_ioctl(part.iova, part.size)
            self._table.remove(part.iova, part.size)
        return gone

    def _unmap_ioctl(self, iova: int, size: int) -> int:
        argument = vfio.vfio_iommu_type1_dma_unmap(iova=iova, size=size)
        self._unmap_calls += 1
        try:
            self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        except OSError as error:
            raise VfioError(
                error.errno or errno.EIO,
                "unmap_dma",
                {"iova": iova, "size": size},
                f"the kernel refused, and nothing was unmapped ({error.strerror})",
            ) from error
        return argument.size

    def mappings(self) -> tuple[MappedRun, ...]:
        with self._lock:
            return self._table.runs()

    @property
    def mapping_count(self) -> int:
        return self._table.count

    @property
    def mappings_left(self) -> int | None:
        with self._lock:
            self._require_iommu("mappings_left")
            return self._query_info().mappings_left

    @property
    def iova_ranges(self) -> tuple[IovaRange, ...]:
        return self._require_iommu("iova_ranges").iova_ranges

    @property
    def page_sizes(self) -> tuple[int, ...]:
        return self._require_iommu("page_sizes").page_sizes

    def _require_iommu(self, operation: str) -> IommuInfo:
        self._check_open()
        if self._info is None:
            raise VfioError(
                errno.EINVAL,
                operation,
                meaning="the container has no IOMMU yet",
                advice="Attach a group first",
            )
        return self._info

    def _set_iommu(self) -> IommuType:
        for kind in (IommuType.TYPE1v2, IommuType.TYPE1):
            if self.kernel.ioctl(self.fd, vfio.VFIO_CHECK_EXTENSION, kind) > 0:
                try:
                    self.kernel.ioctl(self.fd, vfio.VFIO_SET_IOMMU, kind)
                except OSError as error:
                    advice = ""
                    if error.errno == errno.EPERM:
                        advice = (
                            "The platform cannot remap interrupts; if every device is trusted, as root: "
                            "echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
                        )
                    raise VfioError(error.errno or errno.EIO, f"set IOMMU {kind.name}", advice=advice) from error
                return kind
        raise VfioError(
            errno.ENODEV,
            "set IOMMU",
            meaning="no type1 IOMMU driver",
            advice="As root: modprobe vfio_iommu_type1",
        )

    def _query_info(self) -> IommuInfo:
        try:
            info, data = query(self.kernel, self.fd, vfio.VFIO_IOMMU_GET_INFO, vfio.vfio_iommu_type1_info)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, "get IOMMU info") from error
        ranges: list[IovaRange] = []
        left = dirty_page_size = largest_dirty_bitmap = None
        for capability in chain(data, info.cap_offset if info.flags & vfio.VFIO_IOMMU_INFO_CAPS else 0):
            match capability.id:
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                    head = capability.read(vfio.vfio_iommu_type1_info_cap_iova_range)
                    entries = capability.read_array(vfio.vfio_iova_range, ctypes.sizeof(head), head.nr_iovas)
                    ranges = [IovaRange(entry.start, entry.end) for entry in entries]
                case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                    left = capability.read(vfio.vfio_iommu_type1_info_dma_avail).avail
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                    migration = capability.read(vfio.vfio_iommu_type1_info_cap_migration)
                    dirty_page_size = migration.pgsize_bitmap & -migration.pgsize_bitmap
                    largest_dirty_bitmap = migration.max_dirty_bitmap_size
        page_sizes = info.iova_pgsizes if info.flags & vfio.VFIO_IOMMU_INFO_PGSIZES else 4096
        return IommuInfo(
            tuple(1 << bit for bit in range(64) if page_sizes >> bit & 1),
            tuple(ranges) or (IovaRange(0, _END - 1),),
            left,
            dirty_page_size,
            largest_dirty_bitmap,
        )

    def _attach_failure(self, error: OSError, group: Group) -> VfioError:
        code = error.errno or errno.EIO
        if code in (errno.EPERM, errno.EBUSY) and not group.viable:
            return group.not_viable()
        meaning = {
            errno.EINVAL: "the group is in a container already, or its IOMMU reserves addresses that are mapped here",
            errno.EPERM: "the group has no IOMMU and this container has, or a member is claimed elsewhere",
        }.get(code, "")
        return VfioError(code, f"attach group {group.number}", meaning=meaning)

    def _release(self) -> None:
        # The groups are closed by now, and the last one to go took every mapping with it; where a copy of its
        # descriptor lives on elsewhere, the mappings must go by name.
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
            self.kernel.close(self.fd)
            self._table.clear()

    def __repr__(self) -> str:
        return f"<Container {self.path}{' closed' if self._closed else ''}>"


def _single_mappings(runs: Iterable[MappedRun], start: int, end: int) -> Iterator[MappedRun]:
    for run in runs:
        for part in run.parts():
            for iova in part:
                if start <= iova < end:
                    yield replace(run, iova=iova, size=part.step, offset=run.offset + iova - run.iova)
