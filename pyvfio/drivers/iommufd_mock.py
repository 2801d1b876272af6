"""MockDevice: the test device of the kernel's own iommufd tests, behind an IOMMU that has everything.

It needs no hardware, only a kernel that is built with CONFIG_IOMMUFD_TEST, which is meant for testing alone. Programs
that nest, track dirty pages or handle page faults can be tried on it anywhere. SimKernel(iommufd_test=True) has it too.

Never attach test devices and devices of the machine to the same address space or page table: Linux 7.3 does not check
which IOMMU a page table is for when it replaces another one, and hangs.
Source: drivers/iommu/iommufd/selftest.c of Linux 7.3; drivers/iommu/iommu.c, iommu_replace_group_handle.
"""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass
from typing import ClassVar

from pyvfio.abi import iommufd_test as abi
from pyvfio.dma import bitmap_of
from pyvfio.errors import VfioError
from pyvfio.explain import Meanings
from pyvfio.iommufd import FaultPermission, HwPageTable, IommufdDevice, NestedPageTable, Translation
from pyvfio.memory import Memory

APERTURE = (abi.MOCK_APERTURE_START, abi.MOCK_APERTURE_LAST)
"""The first and the last address that the test device's IOMMU translates."""

EVENTS = abi.IOMMU_VEVENTQ_TYPE_SELFTEST
"""The type of the event queue of its virtual IOMMU. An event is the device's virtual id."""
EVENT_SIZE = ctypes.sizeof(abi.iommu_viommu_event_selftest)
"""Bytes of an event."""
QUEUES = abi.IOMMU_HW_QUEUE_TYPE_SELFTEST
"""The type of the hardware queues of its virtual IOMMU. There are two, and the second needs the first."""

_MEANINGS: Meanings = {
    errno.ENOTTY: ("this kernel has no test device", "It is built with CONFIG_IOMMUFD_TEST"),
    errno.EINVAL: ("the test device refused", "drivers/iommu/iommufd/selftest.c tells what it takes"),
}


class MockDeviceFlags(enum.IntFlag):
    """What a test device can do; the values of MOCK_FLAGS_DEVICE_*.

    NO_DIRTY: its IOMMU cannot track dirty pages. PASID: it has process address space ids.
    """

    NO_DIRTY = abi.MOCK_FLAGS_DEVICE_NO_DIRTY
    PASID = abi.MOCK_FLAGS_DEVICE_PASID


@dataclass(frozen=True, slots=True)
class MockStage1:
    """A nested page table. Source: iommu_hwpt_selftest.

    iotlb: what every entry of its IOTLB holds at first.
    """

    iotlb: int = abi.IOMMU_TEST_IOTLB_DEFAULT
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_hwpt_selftest(iotlb=self.iotlb))


@dataclass(frozen=True, slots=True)
class MockInvalidation:
    """Forget what the IOTLB of a nested page table holds. Source: iommu_hwpt_invalidate_selftest.

    entry: the number of the entry to forget; None for all.
    """

    entry: int | None = None
    type: ClassVar[int] = abi.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_TEST_INVALIDATE_FLAG_ALL if self.entry is None else 0
        return bytes(abi.iommu_hwpt_invalidate_selftest(flags=flags, iotlb_id=self.entry or 0))


@dataclass(frozen=True, slots=True)
class MockCacheInvalidation:
    """Forget what the cache of a device in a virtual IOMMU holds. Source: iommu_viommu_invalidate_selftest.

    virtual_id: the device's id there. entry: the number of the entry to forget; None for all.
    """

    virtual_id: int
    entry: int | None = None
    type: ClassVar[int] = abi.IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_TEST_INVALIDATE_FLAG_ALL if self.entry is None else 0
        request = abi.iommu_viommu_invalidate_selftest(flags=flags, vdev_id=self.virtual_id, cache_id=self.entry or 0)
        return bytes(request)


@dataclass(frozen=True, slots=True)
class MockViommu:
    """A virtual IOMMU. Source: iommu_viommu_selftest.

    word: a number of 32 bits that Viommu.data has twice, and with which pages begin that can be mapped; Viommu.data
    tells at which offset of the iommufd.
    """

    word: int = 0
    type: ClassVar[int] = abi.IOMMU_VIOMMU_TYPE_SELFTEST

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_viommu_selftest(in_data=self.word))


class MockDevice(IommufdDevice):
    """A device that moves no data, and whose IOMMU acts as if it had when it is told to.

    It is always attached to something. It is a child of what it was made with, and detach() attaches it to that again.
    """

    def __init__(self, target: Translation, flags: MockDeviceFlags | None = None) -> None:
        """Have the kernel make a device that is attached to target.

        Raises ClosedError, and VfioError: ENOTTY where the kernel has no test device.
        Source: IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS.
        """
        self._home = target
        self.address = "iommufd_mock"
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, id=target.id)
        command.mock_domain_flags.dev_flags = flags or 0
        super().__init__(target)
        with self._allocation():
            self._test(command, "make a test device")
            answer = command.mock_domain_flags
            # The device is one object; what is bound to the iommufd, as by VFIO, is another.
            self._object_id = answer.out_stdev_id
            self.id = answer.out_idev_id
            self.address = f"iommufd_mock {self.id}"
            self.iommufd.attachments.enter(self, None, target)

    def mark_dirty(self, table: HwPageTable, iova: int, page_size: int, pages: int) -> int:
        """Set dirty bits of table as if the device had written; return how many were set.

        pages: bit i stands for the page of page_size bytes at iova + i * page_size. Raises VfioError unless the table
        tracks dirty pages. Source: IOMMU_TEST_OP_DIRTY.
        """
        count = pages.bit_length()
        buffer = ctypes.create_string_buffer(bitmap_of(pages))
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_DIRTY, id=table.id)
        dirty = command.dirty
        dirty.iova, dirty.length, dirty.page_size = iova, count * page_size, page_size
        dirty.uptr = ctypes.addressof(buffer)
        self._test(command, "mark dirty")
        return int(command.dirty.out_nr_dirty)

    def reaches(self, table: HwPageTable, iova: int, memory: Memory, offset: int, size: int) -> bool:
        """Whether table translates size bytes from iova on to the pages of memory from offset on. Raises VfioError."""
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MD_CHECK_MAP, id=table.id)
        command.check_map.iova, command.check_map.length = iova, size
        command.check_map.uptr = memory.address + offset
        return self._holds(command, "compare pages")

    def holds(self, table: NestedPageTable, entry: int, value: int) -> bool:
        """Whether this entry of the nested page table's IOTLB holds value, which is 0 once the entry is invalidated.

        Raises VfioError.
        """
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MD_CHECK_IOTLB, id=table.id)
        command.check_iotlb.id, command.check_iotlb.iotlb = entry, value
        return self._holds(command, "compare the IOTLB")

    def caches(self, entry: int, value: int = abi.IOMMU_TEST_DEV_CACHE_DEFAULT) -> bool:
        """Whether this entry of the device's own cache holds value, which is 0 once the entry is invalidated.

        Raises VfioError.
        """
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
        """Have the device ask for the page at address. The fault is alone in its group.

        permission: what the device wants to do with the page. pasid: the PASID that the request carries, None for none.
        group: the number of the group. The fault goes nowhere if what the device is attached to has no FaultQueue.
        Raises VfioError. Source: IOMMU_TEST_OP_TRIGGER_IOPF.
        """
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_TRIGGER_IOPF)
        trigger = command.trigger_iopf
        trigger.dev_id, trigger.pasid, trigger.grpid = self.id, pasid or 0, group
        trigger.perm, trigger.addr = permission, address
        self._test(command, "fault")

    def event(self) -> None:
        """Have the virtual IOMMU that the device is in report an event. Raises VfioError if it has no queue for it.

        Source: IOMMU_TEST_OP_TRIGGER_VEVENT.
        """
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_TRIGGER_VEVENT)
        command.trigger_vevent.dev_id = self.id
        self._test(command, "have an event")

    def _holds(self, command: abi.iommu_test_cmd, operation: str) -> bool:
        """Whether what the kernel compares is equal: EINVAL says that it is not. Raises VfioError."""
        try:
            self._test(command, operation)
        except VfioError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def _test(self, command: abi.iommu_test_cmd, operation: str) -> None:
        """Give the kernel's test device a command. Raises VfioError."""
        self.iommufd.call(abi.IOMMU_TEST_CMD, command, operation, {}, _MEANINGS)

    def _attach_ioctl(self, target_id: int, pasid: int | None, *, replaces: bool) -> None:
        command = abi.iommu_test_cmd(op=abi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, id=self._object_id)
        command.mock_domain_replace.pt_id = target_id
        if pasid is not None:
            command.op = abi.IOMMU_TEST_OP_PASID_REPLACE if replaces else abi.IOMMU_TEST_OP_PASID_ATTACH
            command.pasid_attach.pasid, command.pasid_attach.pt_id = pasid, target_id
        self.kernel.ioctl(self.iommufd.fd, abi.IOMMU_TEST_CMD, command)

    def detach(self, *, pasid: int | None = None) -> None:
        """Attach the device to what it was made with; with a pasid, stop the DMA that carries it. Raises VfioError."""
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
            super()._release()
        finally:
            self.iommufd.attachments.forget(self)

    def _destroy(self) -> None:
        for pasid in self.pasids:
            self._detach_ioctl(pasid)
        self.iommufd.destroy(self._object_id, self.address)
