"""What the device refuses to its guest and to its host."""

from __future__ import annotations

import errno
from typing import Final

from pyvfio.errors import VfioError
from virtiomem.device.answers import BusyReason, RefusalReason, ResponseType

_ERRNOS: Final = {
    ResponseType.ERROR: errno.EINVAL,
    ResponseType.NACK: errno.EDQUOT,
    ResponseType.BUSY: errno.EBUSY,
}


class RequestRefused(VfioError):
    """A request of the guest was not acknowledged, and every block keeps its state.

    reason: why; reason.response is the code that the guest reads. The failure that led to it is the __cause__.
    """

    def __init__(self, operation: str, reason: RefusalReason, meaning: str = "") -> None:
        """operation and meaning: for people; the meaning is the reason's own words if there is nothing to add."""
        super().__init__(_ERRNOS[reason.response], operation, meaning=meaning or reason.value)
        self.reason: RefusalReason = reason

    def _text(self, errno: int) -> str:  # noqa: ARG002 (the failure behind it has a code of its own)
        return f"{self.operation}: {self.meaning}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.operation, self.reason, self.meaning))


class DeviceBusy(RequestRefused):
    """The device cannot change its blocks now: for a request of the guest, for a reset, or for load().

    reason: why. The failure that led to it is the __cause__.
    """

    reason: BusyReason

    def __init__(self, operation: str, reason: BusyReason, meaning: str = "") -> None:
        super().__init__(operation, reason, meaning)


class ProtocolViolation(VfioError, ValueError):
    """The guest broke virtio's rules: the device needs a reset (DEVICE_NEEDS_RESET) and answers nothing until then."""


class FeaturesRefused(VfioError):
    """The device cannot work with the features that the guest's driver accepted: FEATURES_OK must not stick."""


class StateNotKept(VfioError):
    """A change could not be recorded outside of the process, and was not made. The failure is the __cause__."""

    def __init__(self, error: OSError) -> None:
        """error: what the keeper of the state raised."""
        super().__init__(error.errno or errno.EIO, "record the device's state", meaning=str(error))


class StateRefused(VfioError, ValueError):
    """A saved state is damaged, or is that of another device. Nothing has changed."""
