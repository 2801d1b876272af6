"""VirtualEventQueue: what an IOMMU reports about a guest's devices. Source: linux/iommufd.h, iommufd_vevent_header."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.iommufd.event_queue import EventQueue

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu

_HEADER = ctypes.sizeof(abi.iommufd_vevent_header)
_MOST = 1024
_SIZES = {
    abi.IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: ctypes.sizeof(abi.iommu_vevent_arm_smmuv3),
    abi.IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: ctypes.sizeof(abi.iommu_vevent_tegra241_cmdqv),
}


@dataclass(frozen=True, slots=True)
class VirtualEvent:
    """An event of a guest's IOMMU, or the report that events were lost.

    sequence: the event's number, one more than the number before; 2**31 - 1 is followed by 0. A gap stands for events
    that were lost because the queue was full. data: the bytes of the struct of the queue's kind, as the guest's IOMMU
    would write it. are_lost: the events up to sequence were lost, the newest ones; data is empty then.
    """

    sequence: int
    data: bytes
    are_lost: bool = False


class VirtualEventQueue(EventQueue[VirtualEvent]):
    """The events of one kind from a virtual IOMMU, which has at most one queue of each kind. It is a child of that.

    viommu: the virtual IOMMU. kind: its IOMMU_VEVENTQ_TYPE_*. depth: how many events the kernel keeps.
    """

    def __init__(self, viommu: Viommu, kind: int, depth: int, *, event_size: int | None = None) -> None:
        """Ask the kernel for it. Viommu.event_queue() makes one.

        event_size: the bytes of one event; None for a kind that pyvfio has a struct for.
        Raises ClosedError, InvalidArgument without the size of an unknown kind, and VfioError: EEXIST if there is a
        queue of this kind. Source: IOMMU_VEVENTQ_ALLOC (Linux 6.15).
        """
        size = event_size or _SIZES.get(kind)
        if not size:
            raise InvalidArgument(
                errno.EINVAL,
                f"allocate event queue of {viommu.name}",
                {"kind": kind},
                "the size of an event of this kind is not known",
                "Give event_size",
            )
        self.kind = kind
        self.depth = depth
        self.viommu = viommu
        self._event_size = size
        super().__init__(viommu, _MOST * (_HEADER + size))

    def _allocate(self) -> tuple[int, int]:
        argument = abi.iommu_veventq_alloc(viommu_id=self.viommu.id, type=self.kind, veventq_depth=self.depth)
        arguments = {"kind": self.kind, "depth": self.depth}
        operation = f"allocate event queue of {self.viommu.name}"
        self.iommufd.call(abi.IOMMU_VEVENTQ_ALLOC, argument, operation, arguments, _MEANINGS)
        return argument.out_veventq_id, argument.out_veventq_fd

    @property
    def name(self) -> str:
        """What messages call it: event queue N."""
        return f"event queue {self.id}"

    def _parsed(self, data: bytes) -> tuple[VirtualEvent, ...]:
        return virtual_events(data, self._event_size)


def virtual_events(data: bytes, event_size: int) -> tuple[VirtualEvent, ...]:
    """The events that were read of a queue whose events have event_size bytes. Raises VfioError (EPROTO) unless they
    are whole."""
    events, place = [], 0
    while place < len(data):
        if place + _HEADER > len(data):
            raise _not_whole(data)
        header = abi.iommufd_vevent_header.from_buffer_copy(data, place)
        place += _HEADER
        are_lost = bool(header.flags & abi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS)
        size = 0 if are_lost else event_size
        if place + size > len(data):
            raise _not_whole(data)
        events.append(VirtualEvent(header.sequence, data[place : place + size], are_lost))
        place += size
    return tuple(events)


def _not_whole(data: bytes) -> VfioError:
    return VfioError(errno.EPROTO, "virtual events", {"size": len(data)}, "the kernel has told a part of one")


_MEANINGS = {
    errno.EEXIST: ("the virtual IOMMU has a queue of this type already", "Use that, or close it"),
    errno.EINVAL: ("a queue holds from 1 to 524288 events", "Choose another depth"),
}
