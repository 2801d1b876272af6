"""VirtualEventQueue: what an IOMMU reports of one guest's devices. Source: linux/iommufd.h, iommufd_vevent_header."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import iommufd as abi
from pyvfio.errors import InvalidArgument
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
    """data: the struct of the queue's kind, as the guest's IOMMU would have it.

    sequence: counts up by one, from 0 again after 2**31 - 1; a gap is events that were lost because the queue was full.
    are_lost: the last ones were lost, up to sequence; nothing else is told, data is empty.
    """

    sequence: int
    data: bytes
    are_lost: bool = False


class VirtualEventQueue(EventQueue[VirtualEvent]):
    """The events of one kind. A child of its virtual IOMMU, which has one queue of each kind at most."""

    def __init__(self, viommu: Viommu, kind: int, depth: int, *, event_size: int | None = None) -> None:
        """See Viommu.event_queue."""
        size = event_size or _SIZES.get(kind)
        if not size:
            raise InvalidArgument(
                errno.EINVAL,
                f"allocate event queue of {viommu.name}",
                {"kind": kind},
                "how long an event of this kind is is not known",
                "Give event_size",
            )
        self.kind = kind
        self.depth = depth
        self.viommu = viommu
        self._event_size = size
        super().__init__(viommu.iommufd, viommu, _MOST * (_HEADER + size))

    def _allocate(self) -> tuple[int, int]:
        argument = abi.iommu_veventq_alloc(viommu_id=self.viommu.id, type=self.kind, veventq_depth=self.depth)
        arguments = {"kind": self.kind, "depth": self.depth}
        operation = f"allocate event queue of {self.viommu.name}"
        self.iommufd.call(abi.IOMMU_VEVENTQ_ALLOC, argument, operation, arguments, _MEANINGS)
        return argument.out_veventq_id, argument.out_veventq_fd

    @property
    def name(self) -> str:
        return f"event queue {self.id}"

    def _parsed(self, data: bytes) -> tuple[VirtualEvent, ...]:
        events, place = [], 0
        while place < len(data):
            header = abi.iommufd_vevent_header.from_buffer_copy(data, place)
            place += _HEADER
            are_lost = bool(header.flags & abi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS)
            size = 0 if are_lost else self._event_size
            events.append(VirtualEvent(header.sequence, data[place : place + size], are_lost))
            place += size
        return tuple(events)


_MEANINGS = {
    errno.EEXIST: ("the virtual IOMMU has a queue of this type already", "Use that, or close it"),
    errno.EINVAL: ("a queue holds from 1 to 524288 events", "Choose another depth"),
}
