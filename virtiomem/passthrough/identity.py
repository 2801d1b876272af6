"""What a guest's device reaches at the addresses at which the guest itself sees its memory, and nothing else.

A virtual machine monitor tells the server of a device which of the guest's memory the device may reach. Without an
IOMMU in the guest that is all of it, at its own addresses: the memory that the guest boots from, and the whole region
of each virtio-mem device, of which nothing may be mapped but what is plugged. That the mappers of those devices do.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence

from pyvfio.errors import VfioError
from pyvfio.vfio_user import DmaListener, GuestRange, whole
from virtiomem.runs import Run, intersect, subtract, union

Regions = Callable[[], Sequence[Run]]
"""Where the guest has its virtio-mem regions just now, guest-physical."""


class OutsideRegions:
    """For a GuestMemory: which parts of a range are mapped as they are told, all but those in a virtio-mem region."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def __call__(self, part: GuestRange) -> list[GuestRange]:
        regions = _ordered(self._regions)
        return [
            piece.part(run.start, run.end)
            for piece in whole(part)
            for run in subtract([Run(piece.address, piece.size)], regions)
        ]


class IdentityListener:
    """A DmaListener before another one, which refuses what comes of an IOMMU in the guest.

    With one, a client tells of what the guest's own mappings say, at addresses of the guest's choice. Plugged blocks
    that are mapped at their own addresses would be within reach that the guest's IOMMU forbids, and in the way of its
    mappings. It shows in that the client does not tell of the whole of each region: then nothing that it tells of is
    mapped.
    """

    def __init__(self, listener: DmaListener, regions: Regions, limit: int | None = None) -> None:
        """limit: bytes outside of regions that a client may tell of at a time; None for any number."""
        self._listener = listener
        self._regions = regions
        self._limit = limit
        self._told: dict[int, GuestRange] = {}
        # Since the last settle().
        self._new: dict[int, GuestRange] = {}

    def map(self, part: GuestRange, fd: int | None) -> None:
        if part.place is not None and self._limit is not None:
            told = union(Run(each.address, each.size) for each in (*self._told.values(), part))
            size = sum(run.size for run in subtract(told, _ordered(self._regions)))
            if size > self._limit:
                raise VfioError(
                    errno.ENOMEM,
                    "map guest memory",
                    {"address": part.address, "size": part.size},
                    f"the guest would have {size:#_x} bytes mapped beside virtio-mem, and may have {self._limit:#_x}",
                    "Serve the device with a larger memory=",
                )
        self._listener.map(part, fd)
        if part.place is not None:
            self._told[part.address] = self._new[part.address] = part

    def unmap(self, part: GuestRange) -> None:
        self._listener.unmap(part)
        self._told.pop(part.address, None)
        self._new.pop(part.address, None)

    def settle(self) -> Mapping[int, OSError]:
        new, self._new = self._new, {}
        refused = self._refused(new) if new else {}
        for address in refused:
            self._listener.unmap(self._told.pop(address))
        failures = {**self._listener.settle(), **refused}
        for address in failures:
            # The other listener has forgotten it.
            self._told.pop(address, None)
        return failures

    def end(self) -> Mapping[int, OSError]:
        self._told.clear()
        self._new.clear()
        return self._listener.end()

    def _refused(self, new: Mapping[int, GuestRange]) -> dict[int, OSError]:
        told = union(Run(part.address, part.size) for part in self._told.values())
        for region in self._regions():
            if intersect([region], told) != [region]:
                error = VfioError(
                    errno.EPERM,
                    "map guest memory",
                    {"address": region.start, "size": region.size},
                    "the guest does not let its devices reach the whole of this virtio-mem region: it has an IOMMU, or "
                    "no such region there",
                    "Start the guest without an IOMMU, with its virtio-mem device at this address",
                )
                return dict.fromkeys(new, error)
        return {}


def _ordered(regions: Regions) -> list[Run]:
    return sorted(regions(), key=lambda run: run.start)
