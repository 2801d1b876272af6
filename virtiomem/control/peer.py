"""Who is at the other end of a unix socket."""

import socket
import struct


def peer_user(connection: socket.socket) -> int:
    """The user of the process that connected, or that listens: the kernel's word, whoever owns the file.

    Raises OSError. Source: unix(7), SO_PEERCRED.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return int(user)
