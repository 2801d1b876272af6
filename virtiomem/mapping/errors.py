"""What a guest's IOMMU refuses."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from pyvfio.errors import VfioError


class Refusal(enum.Enum):
    """Why a guest's mapping was not made, or not taken back."""

    INVALID = "invalid"
    """The range is not whole pages of 64-bit addresses, or allows no access at all."""
    OUTSIDE = "outside"
    """The guest has no memory at some of the guest-physical addresses: there are registers of a device, or nothing."""
    READONLY = "read-only"
    """Devices may only read the memory, and the mapping would let them write."""
    DISCARDED = "discarded"
    """Some of the memory is not plugged."""
    OVERLAP = "overlap"
    """Some of the device addresses are mapped already."""
    SPLIT = "split"
    """The range to unmap would cut a mapping in two."""
    TOO_MANY_BYTES = "too many bytes"
    """The guest would pin more than it may in all of its domains. A page that is mapped twice counts twice."""
    TOO_MANY_MAPPINGS = "too many mappings"
    """The guest would make more mappings than it may in all of its domains."""
    HOST = "host"
    """An address space refused; its error is the __cause__. If that is a ListenerDiverged, the mapping is still the
    guest's, but not in every address space: unmap it before anything else."""


class GuestMappingRefused(VfioError):
    """A guest's map or unmap was refused. Everything is as before, unless the __cause__ is a ListenerDiverged.

    reason: why, for whoever counts or answers the guest; the message says it to people.
    """

    def __init__(
        self, errno: int, operation: str, arguments: Mapping[str, object], reason: Refusal, meaning: str = ""
    ) -> None:
        super().__init__(errno, operation, arguments, meaning)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errno, self.operation, self.arguments, self.reason, self.meaning))
