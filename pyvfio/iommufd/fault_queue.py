"""FaultQueue: page faults of devices, for the program to answer. Source: linux/iommufd.h, iommu_hwpt_pgfault."""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass

from pyvfio.abi import iommufd as abi
from pyvfio.errors import ClosedError, VfioError
from pyvfio.iommufd.event_queue import EventQueue
from pyvfio.iommufd.iommufd import Iommufd, explain_iommufd

_FAULT = ctypes.sizeof(abi.iommu_hwpt_pgfault)
_MOST = 1024


class FaultPermission(enum.IntFlag):
    """What the device wanted to do with the page, PRIV as a supervisor; the values of IOMMU_PGFAULT_PERM_*."""

    READ = abi.IOMMU_PGFAULT_PERM_READ
    WRITE = abi.IOMMU_PGFAULT_PERM_WRITE
    EXEC = abi.IOMMU_PGFAULT_PERM_EXEC
    PRIV = abi.IOMMU_PGFAULT_PERM_PRIV


class FaultResponse(enum.IntEnum):
    """What a device is told after a fault: SUCCESS to try again, INVALID to give up. Values of IOMMUFD_PAGE_RESP_*."""

    SUCCESS = abi.IOMMUFD_PAGE_RESP_SUCCESS
    INVALID = abi.IOMMUFD_PAGE_RESP_INVALID


@dataclass(frozen=True, slots=True)
class PageFault:
    """A device's request for a page that is not there. Source: linux/iommufd.h, iommu_hwpt_pgfault.

    device_id: IommufdDevice.id of the device. address: the page's address, as the device uses it. permission: what the
    device wants to do with the page. pasid: the PASID that the request carries, None for none. group: its group's
    number; the faults of a group follow one another, and are answered together. is_last: whether it is the last of its
    group. length: how many bytes the device is about to use, as a hint; 0 for no hint. cookie: what an answer names the
    group by.
    """

    device_id: int
    address: int
    permission: FaultPermission
    pasid: int | None
    group: int
    is_last: bool
    length: int
    cookie: int


class FaultQueue(EventQueue[PageFault]):
    """The page faults of devices that are attached to page tables made with this queue; without one they are stopped.

    Each fault waits for respond(). When a device is detached, the kernel answers its open faults with INVALID. The
    queue is a child of the iommufd, and the page tables that use it are closed before it.
    """

    def __init__(self, iommufd: Iommufd) -> None:
        """Raises ClosedError, and VfioError: ENOTTY before Linux 6.11. Source: IOMMU_FAULT_QUEUE_ALLOC."""
        super().__init__(iommufd, _MOST * _FAULT)

    def _allocate(self) -> tuple[int, int]:
        argument = abi.iommu_fault_alloc()
        self.iommufd.call(abi.IOMMU_FAULT_QUEUE_ALLOC, argument, "allocate fault queue")
        return argument.out_fault_id, argument.out_fault_fd

    @property
    def name(self) -> str:
        """What messages call it: fault queue N."""
        return f"fault queue {self.id}"

    def respond(self, *faults: PageFault, response: FaultResponse = FaultResponse.SUCCESS) -> None:
        """Answer faults in their order, each group once.

        Raises VfioError (EINVAL) for a fault that is answered already, or whose device was detached; the faults before
        it have been answered then.
        """
        self.require_open()
        cookies = dict.fromkeys(fault.cookie for fault in faults)
        answers = b"".join(bytes(abi.iommu_hwpt_page_response(cookie=cookie, code=response)) for cookie in cookies)
        while answers:
            try:
                answers = answers[self._write(answers) :]
            except ClosedError:
                raise
            except OSError as error:
                raise explain_iommufd(error, f"respond in {self.name}", {}, _RESPOND) from error

    def _parsed(self, data: bytes) -> tuple[PageFault, ...]:
        return page_faults(data)


_RESPOND = {
    errno.EINVAL: (
        "no such fault is open",
        "It was answered already, here or, when its device was detached, by the kernel",
    )
}


def page_faults(data: bytes) -> tuple[PageFault, ...]:
    """The faults that were read of a queue. Raises VfioError (EPROTO) unless they are whole."""
    if len(data) % _FAULT:
        raise VfioError(errno.EPROTO, "page faults", {"size": len(data)}, "the kernel has told a part of one")
    return tuple(_fault(abi.iommu_hwpt_pgfault.from_buffer_copy(data, start)) for start in range(0, len(data), _FAULT))


def _fault(fault: abi.iommu_hwpt_pgfault) -> PageFault:
    return PageFault(
        fault.dev_id,
        fault.addr,
        FaultPermission(fault.perm),
        fault.pasid if fault.flags & abi.IOMMU_PGFAULT_FLAGS_PASID_VALID else None,
        fault.grpid,
        bool(fault.flags & abi.IOMMU_PGFAULT_FLAGS_LAST_PAGE),
        fault.length,
        fault.cookie,
    )
