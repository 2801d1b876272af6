"""FaultQueue: page faults of devices, for the program to answer. Source: linux/iommufd.h, iommu_hwpt_pgfault."""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.event_queue import EventQueue
from pyvfio.iommufd.iommufd import Iommufd, explain_iommufd

_FAULT = ctypes.sizeof(abi.iommu_hwpt_pgfault)
_MOST = 1024


class FaultPermission(enum.IntFlag):
    """IOMMU_PGFAULT_PERM_*: what the device wanted to do with the page. PRIV: as a supervisor."""

    READ = abi.IOMMU_PGFAULT_PERM_READ
    WRITE = abi.IOMMU_PGFAULT_PERM_WRITE
    EXEC = abi.IOMMU_PGFAULT_PERM_EXEC
    PRIV = abi.IOMMU_PGFAULT_PERM_PRIV


class FaultResponse(enum.IntEnum):
    """IOMMUFD_PAGE_RESP_*. SUCCESS: the device tries again; INVALID: it gives up."""

    SUCCESS = abi.IOMMUFD_PAGE_RESP_SUCCESS
    INVALID = abi.IOMMUFD_PAGE_RESP_INVALID


@dataclass(frozen=True, slots=True)
class PageFault:
    """device_id: IommufdDevice.id; address: of the page, as the device has it; length: bytes, a hint, 0 for none.

    group: faults of one group follow one another until is_last, and are answered together: they have one cookie.
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
    """Page tables made with it let devices fault instead of stopping them. A child of the iommufd.

    Each fault waits for respond(). When a device is detached its open faults are answered with INVALID by the kernel.
    Page tables that use it are closed before it.
    """

    def __init__(self, iommufd: Iommufd) -> None:
        """Raises VfioError (ENOTTY) before Linux 6.11. Source: IOMMU_FAULT_QUEUE_ALLOC."""
        super().__init__(iommufd, iommufd, _MOST * _FAULT)

    def _allocate(self) -> tuple[int, int]:
        argument = abi.iommu_fault_alloc()
        self.iommufd.call(abi.IOMMU_FAULT_QUEUE_ALLOC, argument, "allocate fault queue")
        return argument.out_fault_id, argument.out_fault_fd

    @property
    def name(self) -> str:
        return f"fault queue {self.id}"

    def respond(self, *faults: PageFault, response: FaultResponse = FaultResponse.SUCCESS) -> None:
        """Answer faults, in order; those of one group need one answer, and get one here.

        Raises VfioError (EINVAL) for one that is answered already, or whose device was detached; those before it are
        answered then.
        """
        self._check_open()
        cookies = dict.fromkeys(fault.cookie for fault in faults)
        answers = b"".join(bytes(abi.iommu_hwpt_page_response(cookie=cookie, code=response)) for cookie in cookies)
        with self._reader.in_use() as fd:
            while answers:
                try:
                    answers = answers[self.kernel.write(fd, answers) :]
                except OSError as error:
                    raise explain_iommufd(error, f"respond in {self.name}", {}, _RESPOND) from error

    def _parsed(self, data: bytes) -> tuple[PageFault, ...]:
        starts = range(0, len(data), _FAULT)
        return tuple(_fault(abi.iommu_hwpt_pgfault.from_buffer_copy(data, start)) for start in starts)


_RESPOND = {
    errno.EINVAL: (
        "no such fault is open",
        "It was answered already, here or, when its device was detached, by the kernel",
    )
}


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
