"""MockDevice: the test device of the kernel's own iommufd tests, behind an IOMMU that has everything.

It needs no hardware, only a kernel built with CONFIG_IOMMUFD_TEST, which is for testing and nothing else. With it
programs that nest, track dirty pages or handle page faults can be tried anywhere; SimKernel(iommufd_test=True) has
one too.

Keep them out of what the machine's own devices are attached to, and those out of theirs: when one page table replaces
another, Linux 7.3 does not ask whose IOMMU it is for, and hangs.
Source: drivers/iommu/iommufd/selftest.c of Linux 7.3; drivers/iommu/iommu.c, iommu_replace_group_handle.
"""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyvfio.abi import iommufd_test as abi
from pyvfio.errors import VfioError
from pyvfio.explain import Meanings
from pyvfio.iommufd import FaultPermission, IommufdDevice

if TYPE_CHECKING:
    from pyvfio.iommufd import HwPageTable, NestedPageTable
    from pyvfio.iommufd.device import Translation
    from pyvfio.memory import Memory

APERTURE = (abi.MOCK_APERTURE_START, abi.MOCK_APERTURE_LAST)
"""The first and the last address that its IOMMU translates."""

EVENTS = abi.IOMMU_VEVENTQ_TYPE_SELFTEST
"""The type of its virtual IOMMU's event queue; an event is EVENT_SIZE bytes, the device's virtual id."""
EVENT_SIZE = ctypes.sizeof(abi.iommu_viommu_event_selftest)
QUEUES = abi.IOMMU_HW_QUEUE_TYPE_SELFTEST
"""The type of its virtual IOMMU's hardware queues; there are two, the second needs the first."""

_MEANINGS: Meanings = {
    errno.ENOTTY: ("this kernel has no test device", "It is built with CONFIG_IOMMUFD_TEST"),
    errno.EINVAL: ("the test device refused", "drivers/iommu/iommufd/selftest.c tells what it takes"),
}


class MockDeviceFlags(enum.IntFlag):
    """MOCK_FLAGS_DEVICE_*. NO_DIRTY: its IOMMU cannot track dirty pages. PASID: it has process address space ids."""

    NO_DIRTY = abi.MOCK_FLAGS_DEVICE_NO_DIRTY
    PASID = abi.MOCK_FLAGS_DEVICE_PASID


@dataclass(frozen=True, slots=True)
class MockStage1:
    """A nested page table: what its IOTLB's entries hold at first. Source: iommu_hwpt_selftest."""

    iotlb: int = abi.IOMMU_TEST_IOTLB_DEFAULT
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_hwpt_selftest(iotlb=self.iotlb))


@dataclass(frozen=True, slots=True)
class MockInvalidation:
    """Of one entry of a nested page table's IOTLB, or of all. Source: iommu_hwpt_invalidate_selftest."""

    entry: int | None = None
    type: ClassVar[int] = abi.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_TEST_INVALIDATE_FLAG_ALL if self.entry is None else 0
        return bytes(abi.iommu_hwpt_invalidate_selftest(flags=flags, iotlb_id=self.entry or 0))


@dataclass(frozen=True, slots=True)
class MockCacheInvalidation:
    """Of one entry of a device's cache, or of all, in a virtual IOMMU. Source: iommu_viommu_invalidate_selftest."""

    virtual_id: int
    entry: int | None = None
    type: ClassVar[int] = abi.IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_TEST_INVALIDATE_FLAG_ALL if self.entry is None else 0
        request = abi.iommu_viommu_invalidate_selftest(flags=flags, vdev_id=self.virtual_id, cache_id=self.entry or 0)
        return bytes(request)


@dataclass(frozen=True, slots=True)
class MockViommu:
    """A virtual IOMMU. Viommu.data has word twice, and where in the iommufd pages that begin with it can be mapped.

    Source: iommu_viommu_selftest.
    """

    word: int = 0
    type: ClassVar[int] = abi.IOMMU_VIOMMU_TYPE_SELFTEST

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_viommu_selftest(in_data=self.word))


class MockDevice(IommufdDevice):
    """A device that does what is asked of it: it moves no data, but its IOMMU acts as if it had.

    It is always attached to something: detach() takes it back to what it was made with, whose child it is.
    """

    def __init__(self, target: Translation, flags: MockDeviceFlags | None = None) -> None:
        """A new device, attached to target. Raises VfioError (ENOTTY) where the kernel has no test device."""
        self._home = target
        self.kernel = target.kernel
        self.iommufd = target.iommufd
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, id=target.id)
        command.mock_domain_flags.dev_flags = flags or 0
        self._test(command, "make a test device")
        answer = command.mock_domain_flags
        self._object_id = answer.out_stdev_id
        self.address = f"iommufd_mock {answer.out_idev_id}"
        self._bound(target.iommufd, answer.out_idev_id)
        super().__init__(target)
        self._moved(None, target)

    def mark_dirty(self, table: HwPageTable, iova: int, page_size: int, pages: int) -> int:
        """Set the dirty bits of table as if the device had written; how many were set.

        pages: bit i is the page of page_size at iova + i * page_size. Raises VfioError unless dirty pages are tracked.
        """
        count = pages.bit_length()
        buffer = ctypes.create_string_buffer(pages.to_bytes(-(-count // 64) * 8, "little"))
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_DIRTY, id=table.id)
        dirty = command.dirty
        dirty.iova, dirty.length, dirty.page_size = iova, count * page_size, page_size
        dirty.uptr = ctypes.addressof(buffer)
        self._test(command, "mark dirty")
        return int(command.dirty.out_nr_dirty)

    def reaches(self, table: HwPageTable, iova: int, memory: Memory, offset: int, size: int) -> bool:
        """Whether table translates iova, for size bytes, to the pages of memory at offset."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MD_CHECK_MAP, id=table.id)
        command.check_map.iova, command.check_map.length = iova, size
        command.check_map.uptr = memory.address + offset
        return self._holds(command, "compare pages")

    def holds(self, table: NestedPageTable, entry: int, value: int) -> bool:
        """Whether this entry of the nested page table's IOTLB holds value: 0 once it is invalidated."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MD_CHECK_IOTLB, id=table.id)
        command.check_iotlb.id, command.check_iotlb.iotlb = entry, value
        return self._holds(command, "compare the IOTLB")

    def caches(self, entry: int, value: int = abi.IOMMU_TEST_DEV_CACHE_DEFAULT) -> bool:
        """Whether this entry of the device's own cache holds value: 0 once it is invalidated."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_DEV_CHECK_CACHE, id=self.id)
        command.check_dev_cache.id, command.check_dev_cache.cache = entry, value
        return self._holds(command, "compare the cache")

    def fault(
        self,
        address: int,
        permission: FaultPermission = FaultPermission.READ,
        *,
        pasid: int | None = None,
        group: int = 0,
    ) -> None:
        """Ask for the page at address, as a group of one. Nobody is told where nobody handles faults."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_TRIGGER_IOPF)
        trigger = command.trigger_iopf
        trigger.dev_id, trigger.pasid, trigger.grpid = self.id, pasid or 0, group
        trigger.perm, trigger.addr = permission, address
        self._test(command, "fault")

    def event(self) -> None:
        """Have an event in the virtual IOMMU that the device is in. Raises VfioError where there is no queue for it."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_TRIGGER_VEVENT)
        command.trigger_vevent.dev_id = self.id
        self._test(command, "have an event")

    def _holds(self, command: abi.iommu_test_cmd, operation: str) -> bool:
        """What the kernel compares: EINVAL says that it differs."""
        try:
            self._test(command, operation)
        except VfioError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def _test(self, command: abi.iommu_test_cmd, operation: str) -> None:
        self.iommufd.call(abi.IOMMU_TEST_CMD, command, operation, {}, _MEANINGS)

    def _attach_ioctl(self, target_id: int, pasid: int | None) -> None:
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, id=self._object_id)
        command.mock_domain_replace.pt_id = target_id
        if pasid is not None:
            is_new = pasid not in self._translations
            command.op = abi.IOMMU_TEST_OP_PASID_ATTACH if is_new else abi.IOMMU_TEST_OP_PASID_REPLACE
            command.pasid_attach.pasid, command.pasid_attach.pt_id = pasid, target_id
        self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_TEST_CMD, command)

    def detach(self, *, pasid: int | None = None) -> None:
        """Take the device back to what it was made with; with a pasid, stop the DMA that carries it."""
        if pasid is None:
            self.attach(self._home)
        else:
            super().detach(pasid=pasid)

    def _detach_ioctl(self, pasid: int | None) -> None:
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_PASID_DETACH, id=self._object_id)
        command.pasid_detach.pasid = pasid or 0
        self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_TEST_CMD, command)

    def _release(self) -> None:
        try:
            if not self._inherited:
                for pasid in self.pasids:
                    self._detach_ioctl(pasid)
                self.iommufd.destroy(self._object_id, self.address)
        finally:
            self._gone()

    def __repr__(self) -> str:
        return f"<MockDevice {self.id}{' closed' if self._closed else ''}>"
