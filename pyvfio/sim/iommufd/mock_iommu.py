"""The IOMMU behind iommufd's test devices, which has everything.

Source: drivers/iommu/iommufd/selftest.c of Linux 7.3.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping

from pyvfio.abi import iommufd
from pyvfio.abi import iommufd_test as abi
from pyvfio.sim.iommufd.command import refuse
from pyvfio.sim.iommufd.driver import Batch, IommuDriver, Table, UserData, VirtualId
from pyvfio.sim.iommufd.io_pagetable import Domain
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.shared_pages import SharedPages
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import S, fail, read_memory, write_memory

_OWNER = object()
_PAGING_FLAGS = (
    iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING | iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT | iommufd.IOMMU_HWPT_ALLOC_PASID
)
_APERTURE = (abi.MOCK_APERTURE_START, abi.MOCK_APERTURE_LAST)
_HUGE_APERTURE = (0, (1 << 56) - 1)
_MMAP_PAGES = 2


class MockIommu:
    """The IOMMU as one test device sees it. flags: MOCK_FLAGS_DEVICE_*. viommu: the virtual one that it is behind."""

    def __init__(self, flags: int) -> None:
        self.owner = _OWNER
        self.nests = True
        self.translates = True
        self.tracks_dirty = not flags & abi.MOCK_FLAGS_DEVICE_NO_DIRTY
        self.max_pasid_log2 = abi.MOCK_PASID_WIDTH if flags & abi.MOCK_FLAGS_DEVICE_PASID else 0
        self.cache = [abi.IOMMU_TEST_DEV_CACHE_DEFAULT] * abi.MOCK_DEV_CACHE_NUM
        self.viommu: MockViommu | None = None
        self.virtual_id = 0

    def hardware(self, wanted: int) -> tuple[int, bytes]:
        refuse(wanted not in (iommufd.IOMMU_HW_INFO_TYPE_DEFAULT, abi.IOMMU_HW_INFO_TYPE_SELFTEST))
        return abi.IOMMU_HW_INFO_TYPE_SELFTEST, bytes(
            abi.iommu_test_hw_info(test_reg=abi.IOMMU_HW_INFO_SELFTEST_REGVAL)
        )

    def domain(self, flags: int, data: UserData | None) -> Domain:
        refuse(flags & ~_PAGING_FLAGS)
        kind = abi.MOCK_IOMMUPT_DEFAULT
        if data is not None:
            refuse(data.kind not in (abi.IOMMU_HWPT_DATA_SELFTEST, iommufd.IOMMU_HWPT_DATA_NONE))
            kind = data.read(abi.IOMMU_HWPT_DATA_SELFTEST, abi.iommu_hwpt_selftest, 4).pagetable_type
        match kind:
            case abi.MOCK_IOMMUPT_DEFAULT:
                return Domain((_APERTURE,), abi.MOCK_PAGE_SIZE)
            case abi.MOCK_IOMMUPT_HUGE:
                return Domain((_HUGE_APERTURE,), PAGE)
            case _:
                raise fail(errno.EOPNOTSUPP)

    def nested(self, flags: int, data: UserData) -> MockNested:
        return MockNested(None, flags, data)

    def virtual(self, kind: int) -> MockViommu | None:
        return MockViommu() if kind == abi.IOMMU_VIOMMU_TYPE_SELFTEST else None

    def attach(self, table: Table | None, virtual: VirtualId | None) -> None:
        if table is not None and table.tracks_dirty and not self.tracks_dirty:
            raise fail(errno.EINVAL)
        hardware = table.hardware if table is not None else None
        viommu, virtual_id = hardware.viommu if isinstance(hardware, MockNested) else None, 0
        if viommu is not None:
            if virtual is None or virtual.hardware is not viommu:
                raise fail(errno.ENOENT)
            virtual_id = virtual.id
        if viommu is not self.viommu:
            self.viommu, self.virtual_id = viommu, virtual_id


class MockNested:
    """A nested page table. iotlb: entries that requests set to 0. viommu: None for one over a page table."""

    def __init__(self, viommu: MockViommu | None, flags: int, data: UserData) -> None:
        refuse(flags & ~iommufd.IOMMU_HWPT_ALLOC_PASID)
        refuse(data.kind != abi.IOMMU_HWPT_DATA_SELFTEST)
        struct = data.read(abi.IOMMU_HWPT_DATA_SELFTEST, abi.iommu_hwpt_selftest, 4)
        self.viommu = viommu
        self.iotlb = [struct.iotlb] * abi.MOCK_NESTED_DOMAIN_IOTLB_NUM

    def invalidate(self, batch: Batch) -> None:
        if batch.kind != abi.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST:
            raise fail(errno.EINVAL)
        while batch.done < batch.entry_num:
            entry = UserData(batch.kind, batch.address + batch.done * batch.entry_len, batch.entry_len)
            request = entry.read(batch.kind, abi.iommu_hwpt_invalidate_selftest, 8)
            _clear(self.iotlb, request.iotlb_id, request.flags)
            batch.done += 1


class MockViommu:
    """A virtual IOMMU, which gives the program two pages to map."""

    def __init__(self) -> None:
        self._queues: dict[int, IommufdObject] = {}

    def start(self, viommu: IommufdObject, pages: SharedPages, data: UserData | None) -> None:
        if data is not None:
            struct = data.read(abi.IOMMU_VIOMMU_TYPE_SELFTEST, abi.iommu_viommu_selftest, 8)
            struct.out_data = struct.in_data
            struct.out_mmap_length = _MMAP_PAGES * PAGE
            struct.out_mmap_offset = pages.add(viommu, struct.out_mmap_length, struct.in_data.to_bytes(4, "little"))
            write_memory(data.address, bytes(struct)[: data.size])

    def nested(self, flags: int, data: UserData) -> MockNested:
        return MockNested(self, flags, data)

    def invalidate(self, devices: Mapping[int, IommuDriver], batch: Batch) -> None:
        """Carry requests out. All are copied in before the first is looked at."""
        if batch.kind != abi.IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST:
            raise fail(errno.EINVAL)
        for request in [_entry(abi.iommu_viommu_invalidate_selftest, batch, nth) for nth in range(batch.entry_num)]:
            refuse(request.flags & ~abi.IOMMU_TEST_INVALIDATE_FLAG_ALL)
            if request.cache_id > abi.MOCK_DEV_CACHE_ID_MAX or request.vdev_id not in devices:
                raise fail(errno.EINVAL)
            driver = devices[request.vdev_id]
            assert isinstance(driver, MockIommu)
            _clear(driver.cache, request.cache_id, request.flags)
            batch.done += 1

    def queue(self, kind: int) -> MockQueue | None:
        return MockQueue(self._queues) if kind == abi.IOMMU_HW_QUEUE_TYPE_SELFTEST else None


class MockQueue:
    """A hardware queue. queues: those of its virtual IOMMU, by index; each but the first needs the one before it."""

    def __init__(self, queues: dict[int, IommufdObject]) -> None:
        self._queues = queues
        self._index = 0

    def start(self, queue: IommufdObject, index: int) -> None:
        if index >= abi.IOMMU_TEST_HW_QUEUE_MAX:
            raise fail(errno.EINVAL)
        if index in self._queues:
            raise fail(errno.EEXIST)
        if index:
            if index - 1 not in self._queues:
                raise fail(errno.EIO)
            self._queues[index - 1].users += 1
        self._index = index
        self._queues[index] = queue

    def stop(self) -> None:
        del self._queues[self._index]
        if self._index:
            self._queues[self._index - 1].users -= 1


def _clear(entries: list[int], number: int, flags: int) -> None:
    refuse(flags & ~abi.IOMMU_TEST_INVALIDATE_FLAG_ALL)
    if number >= len(entries):
        raise fail(errno.EINVAL)
    if flags:
        entries[:] = [0] * len(entries)
    else:
        entries[number] = 0


def _entry(layout: type[S], batch: Batch, number: int) -> S:
    """A request. A longer one must end in zeros, and the missing end of a shorter one is zero, as copy_struct_from_user
    has it."""
    data = read_memory(batch.address + number * batch.entry_len, batch.entry_len)
    size = ctypes.sizeof(layout)
    if any(data[size:]):
        raise fail(errno.E2BIG)
    return layout.from_buffer_copy(data[:size].ljust(size, b"\0"))
