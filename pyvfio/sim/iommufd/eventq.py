"""Queues that a program reads from a descriptor: of events, and of page faults, which it answers.

Source: drivers/iommu/iommufd/eventq.c.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.command import Command, refuse
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process import Process, Stream, UserMemory, fail

_FAULT = ctypes.sizeof(abi.iommu_hwpt_pgfault)
_RESPONSE = ctypes.sizeof(abi.iommu_hwpt_page_response)


class EventQueue(IommufdObject, Stream):
    """Its descriptor holds it, and the iommufd, until it is closed. It is ready while there is something to read."""

    def __init__(self, iommufd: IommufdContext) -> None:
        super().__init__()
        self._iommufd = iommufd
        self._eventfd = -1
        """Of the running kernel's; programs have duplicates of it."""

    def open(self, process: Process) -> int:
        """A descriptor. Raises OSError where there can be no more."""
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        fd = process.install(self)
        self.users += 1
        self._iommufd.holders += 1
        return fd

    def descriptor(self) -> int:
        return os.dup(self._eventfd)

    def release(self) -> None:
        os.close(self._eventfd)
        self._eventfd = -1
        self.users -= 1
        self._iommufd.drop()

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""

    def _show(self) -> None:
        """Let poll() see whether there is something to read."""
        if self._eventfd >= 0:
            if self.is_empty:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._eventfd)
            else:
                os.eventfd_write(self._eventfd, 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """A page fault. device, pasid: the attachment that it came through; it is forgotten when that ends."""

    device: IommufdObject
    pasid: int | None
    message: abi.iommu_hwpt_pgfault


class FaultQueueState(EventQueue):
    """answers: what the program said to each fault, in the order that it did: IOMMUFD_PAGE_RESP_*."""

    def __init__(self, iommufd: IommufdContext) -> None:
        super().__init__(iommufd)
        self._faults: list[Fault] = []
        self._told: dict[int, Fault] = {}
        self.answers: list[int] = []

    @property
    def is_empty(self) -> bool:
        return not self._faults

    def report(self, fault: Fault) -> None:
        """A device has met a page fault."""
        self._faults.append(fault)
        self._show()

    def forget(self, device: IommufdObject, pasid: int | None) -> None:
        """An attachment ends: nothing of it waits for an answer any more."""
        self._faults = [fault for fault in self._faults if (fault.device, fault.pasid) != (device, pasid)]
        self._told = {
            cookie: fault for cookie, fault in self._told.items() if (fault.device, fault.pasid) != (device, pasid)
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
    """The commands of an iommufd that make fault queues."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_FAULT_QUEUE_ALLOC: Command(abi.iommu_fault_alloc, 16, self._alloc, since=(6, 11)),
        }

    def _alloc(self, user: UserMemory, command: abi.iommu_fault_alloc) -> None:
        refuse(command.flags)
        queue = FaultQueueState(self._iommufd)
        number = self._iommufd.add(queue)
        user.write(struct.pack("<II", number, queue.open(user.process)), 8)
