"""What a front end, and the guest behind it, can do wrong."""

from pyvfio.errors import VfioError
from virtiomem.device import ProtocolViolation


class FrontEndError(VfioError):
    """The front end broke the vhost-user protocol. Its connection is closed, and the device keeps its state."""


class QueueBroken(ProtocolViolation):
    """The guest's driver malformed the ring, or put an address into it that is not in the guest's memory."""
