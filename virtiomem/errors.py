"""What can go wrong above VFIO; everything else is in pyvfio.errors."""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyvfio.errors import VfioError

if TYPE_CHECKING:
    from virtiomem.discard import Section


class BusyReason(enum.Enum):
    """Why a request was answered BUSY. The guest sees one code for all of them."""

    MIGRATING = "migrating"
    """Blocks keep their state while the virtual machine migrates."""
    NO_MEMORY = "no memory"
    """The host has not the memory to populate the blocks, or to map them."""
    MAPPING_REFUSED = "mapping refused"
    """A listener refused the blocks."""
    NO_MAPPINGS_LEFT = "no mappings left"
    """An address space holds as many mappings as it may."""
    MEMLOCK_EXCEEDED = "memlock exceeded"
    """Pinning the blocks would exceed RLIMIT_MEMLOCK."""
    LISTENER_DIVERGED = "listener diverged"
    """A listener holds something else than is plugged, and could not be brought back."""
    DISCARD_FAILED = "discard failed"
    """A listener would not let go of the blocks, or the host would not take their memory back."""


class DeviceBusy(VfioError):
    """The device keeps its blocks as they are. reason: why; the error it comes from is its __cause__."""

    def __init__(self, operation: str, reason: BusyReason, meaning: str = "") -> None:
        super().__init__(errno.EBUSY, operation, meaning=meaning or reason.value)
        self.reason = reason

    def _text(self, errno: int) -> str:  # noqa: ARG002 (the failure behind it has a code of its own)
        return f"{self.operation}: {self.meaning}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.operation, self.reason, self.meaning))


class ProtocolViolation(VfioError, ValueError):
    """The guest broke virtio's rules: the device needs a reset (DEVICE_NEEDS_RESET) and answers nothing until then."""


class FeaturesRefused(VfioError):
    """The device will not work with the features the guest's driver accepted: FEATURES_OK must not stick."""


class StateRefused(VfioError, ValueError):
    """A saved state is damaged, or of another device than this one. Nothing has changed."""


class DiscardRefused(VfioError):
    """Somebody else's use of the memory excludes this one; the message names who."""


class ListenerDiverged(VfioError):
    """A listener failed and could not undo what it had done.

    changed: the sections that did change nevertheless: populated by a failed populate, discarded by a failed discard.
    """

    def __init__(
        self,
        operation: str,
        meaning: str,
        changed: Sequence[Section] = (),
        advice: str = "The device repairs it before its next request, or call repair()",
    ) -> None:
        super().__init__(errno.EIO, operation, meaning=meaning, advice=advice)
        self.changed = tuple(changed)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.operation, self.meaning, self.changed, self.advice))


class Refusal(enum.Enum):
    """Why a guest's mapping was not made, or not taken back."""

    INVALID = "invalid"
    """No range of whole pages within the region and the 64-bit space, or no access at all."""
    READONLY = "read-only"
    """The device may only read the region."""
    DISCARDED = "discarded"
    """Some of the memory is not plugged."""
    OVERLAP = "overlap"
    """Some of the device addresses are mapped already."""
    SPLIT = "split"
    """The range to unmap would cut a mapping in two."""
    TOO_MANY_BYTES = "too many bytes"
    """The guest would pin more than it may; a page that is mapped twice counts twice."""
    TOO_MANY_MAPPINGS = "too many mappings"
    """The guest would make more mappings than it may."""
    HOST = "host"
    """An address space refused; the error is the __cause__. If it says ListenerDiverged, unmapping is to be tried again
    before anything else: the mapping is still the guest's, but not in every address space."""


class GuestMappingRefused(VfioError):
    """Everything is as before, unless its __cause__ is a ListenerDiverged. reason: why."""

    def __init__(
        self, errno: int, operation: str, arguments: Mapping[str, object], reason: Refusal, meaning: str = ""
    ) -> None:
        super().__init__(errno, operation, arguments, meaning)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errno, self.operation, self.arguments, self.reason, self.meaning))
