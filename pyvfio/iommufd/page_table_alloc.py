"""How each kind of page table of an iommufd is allocated, and how the caches of the program's own are invalidated."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence

from pyvfio.abi import iommufd as abi
from pyvfio.errors import InvalidArgument, InvalidationRefused, VfioError
from pyvfio.explain import Meanings
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import DriverData
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.iommufd import Iommufd


def buffer_of(data: DriverData | None) -> ctypes.Array[ctypes.c_char]:
    """A copy of the struct for the kernel to read and write; its address is good as long as the buffer lives."""
    content = bytes(data) if data is not None else b""
    return (ctypes.c_char * len(content)).from_buffer_copy(content)


def allocate(
    device: IommufdDevice,
    parent_id: int,
    operation: str,
    *,
    flags: int,
    data: DriverData | None,
    faults: FaultQueue | None,
    meanings: Meanings,
) -> int:
    """Allocate a page table for devices like device; return its number.

    parent_id: the number of the address space, page table or virtual IOMMU that it stands on. operation: what is being
    done, for messages. flags: of IOMMU_HWPT_ALLOC_*, without the one for faults. data: what the IOMMU's driver is told.
    faults: where page faults go. Raises ClosedError, and VfioError, explained by meanings. Source: IOMMU_HWPT_ALLOC.
    """
    buffer = buffer_of(data)
    argument = abi.iommu_hwpt_alloc(flags=flags, dev_id=device.id, pt_id=parent_id, data_len=len(buffer))
    if data is not None:
        argument.data_type, argument.data_uptr = data.type, ctypes.addressof(buffer)
    if faults is not None:
        faults.require_open()
        argument.flags |= abi.IOMMU_HWPT_FAULT_ID_VALID
        argument.fault_id = faults.id
    device.iommufd.call(abi.IOMMU_HWPT_ALLOC, argument, operation, {"flags": argument.flags}, meanings)
    return argument.out_hwpt_id


def invalidate(iommufd: Iommufd, object_id: int, name: str, requests: Sequence[DriverData]) -> None:
    """Invalidate what requests of one type name, in their order, in the page table or virtual IOMMU of this number.

    name: what messages call it. Raises InvalidArgument for requests of several types, InvalidationRefused.
    Source: IOMMU_HWPT_INVALIDATE.
    """
    operation = f"invalidate in {name}"
    if not requests:
        return
    entries = [bytes(request) for request in requests]
    if len({(request.type, len(entry)) for request, entry in zip(requests, entries, strict=True)}) > 1:
        raise InvalidArgument(
            errno.EINVAL, operation, meaning="requests of several types", advice="Ask for each by itself"
        )
    buffer = ctypes.create_string_buffer(b"".join(entries))
    argument = abi.iommu_hwpt_invalidate(hwpt_id=object_id, data_type=requests[0].type, entry_len=len(entries[0]))
    argument.data_uptr, argument.entry_num = ctypes.addressof(buffer), len(entries)
    try:
        iommufd.call(abi.IOMMU_HWPT_INVALIDATE, argument, operation, {}, _INVALIDATE)
    except VfioError as error:
        raise InvalidationRefused.after(error, argument.entry_num, len(entries)) from error.__cause__
    if argument.entry_num != len(entries):
        silent = VfioError(errno.EIO, operation, meaning="the kernel says nothing of why it stopped")
        raise InvalidationRefused.after(silent, argument.entry_num, len(entries))


_INVALIDATE: Meanings = {
    errno.EINVAL: (
        "the IOMMU's driver does not take it",
        "Its type must be of this kind of IOMMU, and what it names be there",
    ),
    errno.EOPNOTSUPP: ("the IOMMU's driver does not know the request", "Flags it may have are in linux/iommufd.h"),
    errno.EIO: ("the IOMMU did not carry it out", "The kernel's log may say more: dmesg"),
    errno.ETIMEDOUT: ("the IOMMU or the device did not answer in time", "Reset the device"),
}
