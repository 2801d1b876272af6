"""The socket of a front end: what is taken out of it, and when."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader
from virtiomem.vhost_user.aio import Aio
from virtiomem.vhost_user.connection import Connection

MESSAGE = bytes(VhostUserHeader(request=abi.VHOST_USER_GET_FEATURES, flags=abi.VHOST_USER_VERSION, size=0))


class Late(socket.socket):
    """A socket at which a message comes in the moment after it was found empty."""

    peer: socket.socket | None = None

    def recvmsg(self, *arguments: Any) -> Any:
        try:
            return super().recvmsg(*arguments)
        except BlockingIOError:
            if self.peer is not None:
                self.peer.send(MESSAGE)
                self.peer = None
            raise


def test_a_message_that_comes_between_two_looks_waits_in_the_socket_too() -> None:
    """Taken out before it is recorded, it would be lost with a process that is killed."""
    ours, theirs = socket.socketpair()
    late = Late(fileno=ours.detach())
    late.peer = theirs
    with theirs, Aio(2) as aio, closing(Connection(late, aio)) as connection:
        assert connection.receive() is None
        message = connection.receive()
        assert message is not None
        assert connection.is_waiting
