"""What can go wrong between a front end, the guest behind it and the device."""

from pyvfio.errors import VfioError
from virtiomem.device import ProtocolViolation


class FrontEndError(VfioError):
    """The front end broke the vhost-user protocol: its connection is closed, the device keeps its state."""


class QueueBroken(ProtocolViolation):
    """The guest's driver made the ring malformed, or put an address into it that is not the guest's memory."""
