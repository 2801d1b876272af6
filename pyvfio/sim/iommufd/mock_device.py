"""iommufd's test devices, and the command that drives them. Source: drivers/iommu/iommufd/selftest.c, Linux 7.3."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Mapping
from typing import Any

from pyvfio.abi import iommufd
from pyvfio.abi import iommufd_test as abi
from pyvfio.abi.types import offset_of
from pyvfio.sim.iommufd.command import Command
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.device import BoundDevice
from pyvfio.sim.iommufd.eventq import Fault
from pyvfio.sim.iommufd.io_pagetable import READ
from pyvfio.sim.iommufd.mock_iommu import MockIommu, MockNested
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.page_tables import NestedTable, PageTable
from pyvfio.sim.iommufd.viommu import VirtualIommu
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import UserMemory, fail, read_memory

_SIZE = ctypes.sizeof(abi.iommu_test_cmd)
_SMALLEST = offset_of(abi.iommu_test_cmd, "last") + 4
_MOST_PAGES = 16 << 23
_NO_PASID = 0


class MockDevice(IommufdObject):
    """A test device. It holds the device that is bound to the iommufd, until the program destroys it."""

    def __init__(self, iommufd: IommufdContext, flags: int) -> None:
        super().__init__()
        self._iommufd = iommufd
        self.device = BoundDevice(iommufd, MockIommu(flags))

    def destroy(self) -> None:
        self.device.detach()
        self.device.unbind()


class MockCommands:
    """The commands of an iommufd: of the kernel's, those for which the kernel itself need not access pages."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {}
        if iommufd.machine.iommufd_test:
            self.commands = {abi.IOMMU_TEST_CMD: Command(abi.iommu_test_cmd, _SMALLEST, self._test)}
        self._operations: dict[int, Callable[[abi.iommu_test_cmd], None]] = {
            abi.IOMMU_TEST_OP_MOCK_DOMAIN: self._mock_domain,
            abi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: self._mock_domain,
            abi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: self._replace,
            abi.IOMMU_TEST_OP_MD_CHECK_MAP: self._check_map,
            abi.IOMMU_TEST_OP_MD_CHECK_IOTLB: self._check_iotlb,
            abi.IOMMU_TEST_OP_DEV_CHECK_CACHE: self._check_cache,
            abi.IOMMU_TEST_OP_DIRTY: self._dirty,
            abi.IOMMU_TEST_OP_TRIGGER_IOPF: self._trigger_fault,
            abi.IOMMU_TEST_OP_TRIGGER_VEVENT: self._trigger_event,
            abi.IOMMU_TEST_OP_PASID_ATTACH: self._pasid_attach,
            abi.IOMMU_TEST_OP_PASID_REPLACE: self._pasid_replace,
            abi.IOMMU_TEST_OP_PASID_DETACH: self._pasid_detach,
            abi.IOMMU_TEST_OP_PASID_CHECK_HWPT: self._pasid_check,
        }

    def _test(self, user: UserMemory, command: abi.iommu_test_cmd) -> None:
        if command.op not in self._operations:
            raise fail(errno.EOPNOTSUPP)
        before = bytes(command)
        self._operations[command.op](command)
        if bytes(command) != before:
            user.write(bytes(command)[: min(user.u32(0), _SIZE)])

    def _device(self, number: int) -> BoundDevice:
        return self._iommufd.get(number, BoundDevice)

    def _mock_domain(self, command: abi.iommu_test_cmd) -> None:
        answer = command.mock_domain_flags
        flags = answer.dev_flags if command.op == abi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS else 0
        if flags & ~(abi.MOCK_FLAGS_DEVICE_NO_DIRTY | abi.MOCK_FLAGS_DEVICE_PASID):
            raise fail(errno.EINVAL)
        mock = MockDevice(self._iommufd, flags)
        mock.is_published = False
        self._iommufd.add(mock)
        self._iommufd.add(mock.device)
        try:
            table = mock.device.attach(command.id)
        except OSError:
            self._iommufd.remove(mock)
            raise
        mock.is_published = True
        answer.out_stdev_id, answer.out_hwpt_id, answer.out_idev_id = mock.id, table, mock.device.id

    def _replace(self, command: abi.iommu_test_cmd) -> None:
        mock = self._iommufd.get(command.id, MockDevice)
        command.mock_domain_replace.pt_id = mock.device.replace(command.mock_domain_replace.pt_id)

    def _check_map(self, command: abi.iommu_test_cmd) -> None:
        table = self._iommufd.get(command.id, PageTable)
        iova, length, address = command.check_map.iova, command.check_map.length, command.check_map.uptr
        if (iova | length | address) % table.domain.alignment:
            raise fail(errno.EINVAL)
        read_memory(address, length)
        for part in range(0, length, table.domain.alignment):
            found = table.ioas.translate(iova + part, 1, READ)
            if found is None or found[0][0].pages.source.start + found[0][1] != address + part:
                raise fail(errno.EINVAL)

    def _check_iotlb(self, command: abi.iommu_test_cmd) -> None:
        table = self._iommufd.get(command.id, NestedTable)
        entries = table.hardware.iotlb if isinstance(table.hardware, MockNested) else []
        _compare(entries, command.check_iotlb.id, command.check_iotlb.iotlb)

    def _check_cache(self, command: abi.iommu_test_cmd) -> None:
        driver = self._device(command.id).driver
        entries = driver.cache if isinstance(driver, MockIommu) else []
        _compare(entries, command.check_dev_cache.id, command.check_dev_cache.cache)

    def _dirty(self, command: abi.iommu_test_cmd) -> None:
        dirty = command.dirty
        iova, length, size, address = dirty.iova, dirty.length, dirty.page_size, dirty.uptr
        if not (size and length and address) or iova % size or length % size:
            raise fail(errno.EINVAL)
        if length // size > _MOST_PAGES:
            raise fail(errno.EOVERFLOW)
        table = self._iommufd.get(command.id, PageTable)
        if not table.tracking:
            raise fail(errno.EINVAL)
        bits = int.from_bytes(read_memory(address, -(-(length // size) // 8)), "little")
        hit = [iova + number * size for number in range(length // size) if bits >> number & 1]
        table.domain.dirty.update(page // PAGE for page in hit if table.ioas.translate(page, 1, READ) is not None)
        dirty.out_nr_dirty = len(hit)

    def _trigger_fault(self, command: abi.iommu_test_cmd) -> None:
        trigger = command.trigger_iopf
        device = self._device(trigger.dev_id)
        if not isinstance(device.driver, MockIommu):
            raise fail(errno.EINVAL)
        attached = None if trigger.pasid == _NO_PASID else trigger.pasid
        table = device.tables.get(attached)
        if attached is not None and table is None and isinstance(device.tables.get(None), NestedTable):
            # The guest's own PASID table leads on from there.
            attached, table = None, device.tables[None]
        if table is None or table.faults is None:
            return
        flags = iommufd.IOMMU_PGFAULT_FLAGS_LAST_PAGE
        flags |= iommufd.IOMMU_PGFAULT_FLAGS_PASID_VALID if trigger.pasid != _NO_PASID else 0
        message = iommufd.iommu_hwpt_pgfault(flags=flags, dev_id=device.id, pasid=trigger.pasid, grpid=trigger.grpid)
        message.perm, message.addr = trigger.perm, trigger.addr
        table.faults.report(Fault(device, attached, message))

    def _trigger_event(self, command: abi.iommu_test_cmd) -> None:
        driver = self._device(command.trigger_vevent.dev_id).driver
        if not isinstance(driver, MockIommu) or driver.viommu is None or not driver.virtual_id:
            raise fail(errno.ENOENT)
        viommus = self._iommufd.objects(VirtualIommu)
        viommu = next(each for each in viommus if each.hardware is driver.viommu)
        queue = viommu.events.get(abi.IOMMU_VEVENTQ_TYPE_SELFTEST)
        if queue is None:
            raise fail(errno.EOPNOTSUPP)
        queue.report(struct.pack("<I", driver.virtual_id & 0xFFFF_FFFF))

    def _pasid_attach(self, command: abi.iommu_test_cmd) -> None:
        mock, argument = self._iommufd.get(command.id, MockDevice), command.pasid_attach
        argument.pt_id = mock.device.attach(argument.pt_id, argument.pasid or None)

    def _pasid_replace(self, command: abi.iommu_test_cmd) -> None:
        mock, argument = self._iommufd.get(command.id, MockDevice), command.pasid_attach
        argument.pt_id = mock.device.replace(argument.pt_id, argument.pasid or None)

    def _pasid_detach(self, command: abi.iommu_test_cmd) -> None:
        self._iommufd.get(command.id, MockDevice).device.detach(command.pasid_detach.pasid or None)

    def _pasid_check(self, command: abi.iommu_test_cmd) -> None:
        mock, argument = self._iommufd.get(command.id, MockDevice), command.pasid_check
        expected = None
        if argument.hwpt_id:
            expected = self._iommufd.find(argument.hwpt_id)
            if expected is None:
                raise fail(errno.ENOENT)
        if mock.device.tables.get(argument.pasid or None) is not expected:
            raise fail(errno.EINVAL)


def _compare(entries: list[int], number: int, expected: int) -> None:
    if number >= len(entries) or entries[number] != expected:
        raise fail(errno.EINVAL)
