"""What can go wrong between the two ends of a vfio-user socket."""

from pyvfio.errors import VfioError


class PeerError(VfioError):
    """The other end broke the vfio-user protocol, or has not answered in time. The session with it is over."""


class PeerGone(PeerError):
    """The other end has closed its socket, or its process has ended."""
