"""vfio-user: a device of this library, or a model of one, served to a virtual machine monitor over a unix socket."""

from pyvfio.unix_socket import Permissions
from pyvfio.vfio_user.errors import PeerError, PeerGone
from pyvfio.vfio_user.events import ServerEvents
from pyvfio.vfio_user.guest_memory import GuestMemory, GuestMemoryListener, whole
from pyvfio.vfio_user.guest_range import FilePlace, GuestRange
from pyvfio.vfio_user.listener import DmaListener, NoMemory
from pyvfio.vfio_user.record import SessionRecord
from pyvfio.vfio_user.served import Served, ServedDevice
from pyvfio.vfio_user.server import Server
from pyvfio.vfio_user.version import Limits

__all__ = [
    "DmaListener",
    "FilePlace",
    "GuestMemory",
    "GuestMemoryListener",
    "GuestRange",
    "Limits",
    "NoMemory",
    "PeerError",
    "PeerGone",
    "Permissions",
    "Served",
    "ServedDevice",
    "Server",
    "ServerEvents",
    "SessionRecord",
    "whole",
]
