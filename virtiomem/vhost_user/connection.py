"""Connection: the socket of a front end, message by message."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final, Self

from virtiomem.vhost_user.abi import vhost_user
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.messages import Message

_HEADER_SIZE: Final = ctypes.sizeof(VhostUserHeader)
_LARGEST_PAYLOAD: Final = 4096
"""Bytes, more than any message needs: no front end can make this end keep more."""
_MOST_FDS: Final = vhost_user.VHOST_MEMORY_BASELINE_NREGIONS


class Connection:
    """Receives and sends messages, without waiting. Owns its socket, and descriptors that came with half a message."""

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint
        self._data = bytearray()
        self._fds: list[int] = []

    @classmethod
    def over(cls, fd: int) -> Self:
        """A connection over the descriptor of a connected unix stream socket, which is closed if it is none.

        Raises OSError.
        """
        try:
            endpoint = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
        try:
            endpoint.getpeername()
            if (endpoint.family, endpoint.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
                raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
        except OSError:
            endpoint.close()
            raise
        return cls(endpoint)

    def fileno(self) -> int:
        """The socket's descriptor; -1 after close()."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())

    def receive(self) -> Message | None:
        """The next message; None if not all of it has come yet.

        Raises EOFError when the front end has gone, and FrontEndError for what cannot be a message. Nothing can be
        received afterwards.
        """
        if not self._fill(_HEADER_SIZE):
            return None
        header = VhostUserHeader.from_buffer_copy(self._data)
        operation = f"vhost-user message {header.request}"
        if header.flags & vhost_user.VHOST_USER_VERSION_MASK != vhost_user.VHOST_USER_VERSION:
            raise FrontEndError(errno.EPROTO, operation, {"flags": header.flags}, "not version 1 of the protocol")
        if header.size > _LARGEST_PAYLOAD:
            raise FrontEndError(errno.EMSGSIZE, operation, {"size": header.size}, "no message is that long")
        if not self._fill(_HEADER_SIZE + header.size):
            return None
        payload, fds = bytes(self._data[_HEADER_SIZE:]), tuple(self._fds)
        self._data.clear()
        self._fds.clear()
        return Message(header.request, header.flags, payload, fds)

    def reply(self, message: Message, payload: bytes) -> None:
        """Reply to message. Raises FrontEndError if the front end does not read replies, EOFError if it has gone."""
        self._send(message.request, vhost_user.VHOST_USER_REPLY_MASK, payload)

    def notify(self, request: int) -> None:
        """Send a message without payload and reply. It is dropped if the front end has too many of them unread.

        Raises EOFError if the front end has gone.
        """
        try:
            self._send(request, 0, b"")
        except FrontEndError:
            # Those that are unread say the same.
            return

    def _fill(self, size: int) -> bool:
        """Receive until size bytes of this message are there, and none of the next; return whether they are."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    size - len(self._data),
                    socket.CMSG_SPACE(4 * _MOST_FDS),
                    socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return False
            except ConnectionError as error:
                raise EOFError("the front end has gone") from error
            except OSError as error:
                raise FrontEndError(error.errno or errno.EIO, "vhost-user message") from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
            if flags & socket.MSG_CTRUNC or len(self._fds) > _MOST_FDS:
                meaning = "too many descriptors came with it, or this process has none left"
                raise FrontEndError(errno.EMFILE, "vhost-user message", meaning=meaning)
            if not data:
                raise EOFError("the front end has gone")
            self._data += data
        return True

    def _send(self, request: int, flags: int, payload: bytes) -> None:
        header = VhostUserHeader(request=request, flags=vhost_user.VHOST_USER_VERSION | flags, size=len(payload))
        data = bytes(header) + payload
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError("the front end has gone") from error
        if sent < len(data):
            raise FrontEndError(errno.EAGAIN, "vhost-user reply", meaning="the front end does not read its replies")
