"""Page faults of devices, for the program to answer. Source: drivers/iommu/iommufd/eventq.c."""

from __future__ import annotations

import ctypes
import errno
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import command_in, refuse
from pyvfio.sim.iommufd.event_queue import EventQueue
from pyvfio.sim.process.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.device import BoundDevice
    from pyvfio.sim.iommufd.main import IommufdState

_FAULT = ctypes.sizeof(abi.iommu_hwpt_pgfault)
_RESPONSE = ctypes.sizeof(abi.iommu_hwpt_page_response)


@dataclass(frozen=True, slots=True)
class Fault:
    """device and attached: whose attachment it came through, by its PASID; it is forgotten with that."""

    device: BoundDevice
    attached: int | None
    message: abi.iommu_hwpt_pgfault


class FaultQueueState(EventQueue):
    """answers: what the program said to each fault, in that order: IOMMUFD_PAGE_RESP_*."""

    def __init__(self, iommufd: IommufdState) -> None:
        super().__init__(iommufd)
        self._faults: list[Fault] = []
        self._told: dict[int, Fault] = {}
        self.answers: list[int] = []

    @property
    def is_empty(self) -> bool:
        return not self._faults

    def report(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._show()

    def forget(self, device: BoundDevice, pasid: int | None) -> None:
        """What is open of an attachment that ends is answered as invalid."""
        self._faults = [fault for fault in self._faults if (fault.device, fault.attached) != (device, pasid)]
        self._told = {
            cookie: fault for cookie, fault in self._told.items() if (fault.device, fault.attached) != (device, pasid)
        }
        self._show()

    def read(self, size: int) -> bytes:
        if size % _FAULT:
            raise fail(errno.ESPIPE)
        if self._faults and not size:
            raise fail(errno.EINVAL)
        told = b""
        while self._faults and len(told) < size:
            fault = self._faults.pop(0)
            fault.message.cookie = next(cookie for cookie in itertools.count(1) if cookie not in self._told)
            self._told[fault.message.cookie] = fault
            told += bytes(fault.message)
        self._show()
        return told

    def write(self, data: bytes) -> int:
        if len(data) % _RESPONSE:
            raise fail(errno.ESPIPE)
        done = 0
        for cookie, code in struct.iter_unpack("<II", data):
            is_code = code in (abi.IOMMUFD_PAGE_RESP_SUCCESS, abi.IOMMUFD_PAGE_RESP_INVALID)
            if not is_code or cookie not in self._told:
                if not done:
                    raise fail(errno.EINVAL)
                break
            del self._told[cookie]
            self.answers.append(code)
            done += _RESPONSE
        return done


class FaultCommands:
    """Of one iommufd."""

    def __init__(self, iommufd: IommufdState) -> None:
        self._iommufd = iommufd
        self.commands: dict[int, Callable[[UserMemory], int]] = {}
        if iommufd.kernel.version >= (6, 11):
            self.commands[abi.IOMMU_FAULT_QUEUE_ALLOC] = self._fault_queue_alloc

    def _fault_queue_alloc(self, user: UserMemory) -> int:
        refuse(command_in(user, abi.iommu_fault_alloc, 16).flags)
        queue = FaultQueueState(self._iommufd)
        number = self._iommufd.add(queue)
        user.write(struct.pack("<II", number, queue.open(user.process)), 8)
        return 0
