"""Connection: the socket of a front end, message by message."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final, Self

from pyvfio.unix_socket import connected_stream
from virtiomem.vhost_user.abi import vhost_user
from virtiomem.vhost_user.abi.aio_abi import IOCB_CMD_PREAD, IOCB_CMD_PWRITE, IOCB_FLAG_RESFD, iocb
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader
from virtiomem.vhost_user.aio import Aio, operation
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.messages import Message

_HEADER_SIZE: Final = ctypes.sizeof(VhostUserHeader)
_LARGEST_PAYLOAD: Final = 4096
"""Bytes, more than any message needs: no front end can make this end keep more."""
_MOST_FDS: Final = vhost_user.VHOST_MEMORY_BASELINE_NREGIONS


class Connection:
    """Receives and sends messages, without waiting. Owns its socket, and descriptors that came with half a message."""

    def __init__(self, endpoint: socket.socket, aio: Aio | None = None) -> None:
        """aio: for finish(), and so for a connection that messages are received from; it stays the caller's."""
        endpoint.setblocking(False)
        self._socket = endpoint
        self._aio = aio
        self._data = bytearray()
        # Bytes of the message that was received last, which are in the socket still.
        self._waiting = 0
        self._fds: list[int] = []

    @classmethod
    def over(cls, fd: int) -> Self:
        """A connection over the descriptor of a connected unix stream socket, which is closed if it is none.

        Raises OSError.
        """
        return cls(connected_stream(fd))

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

        A message that came in one piece waits in the socket until finish(), for whoever goes on with the connection if
        this process ends; so do copies of its descriptors.
        Raises EOFError when the front end has gone, and FrontEndError for what cannot be a message. Nothing can be
        received afterwards.
        """
        if not self._data:
            has_come, message = self._peek()
            # What comes after that look is looked at next time: taken now, it would be lost with this process.
            if message is not None or not has_come:
                return message
        if not self._fill(_HEADER_SIZE):
            return None
        size = self._checked(VhostUserHeader.from_buffer_copy(self._data))
        if not self._fill(size):
            return None
        header = VhostUserHeader.from_buffer_copy(self._data)
        payload, fds = bytes(self._data[_HEADER_SIZE:]), tuple(self._fds)
        self._data.clear()
        self._fds.clear()
        return Message(header.request, header.flags, payload, fds)

    @property
    def is_waiting(self) -> bool:
        """Whether the message that was received last waits in the socket, until finish() takes it."""
        return self._waiting > 0

    def finish(self, message: Message, reply: bytes | None, taken: int) -> None:
        """message, which was received last, is dealt with: reply to it (None: do not), take it if it waits, and count
        that in the eventfd taken, by one system call: whoever goes on finds all of that done, or nothing.

        Raises FrontEndError if the front end does not read replies, EOFError if it has gone.
        """
        operations: list[iocb] = []
        fd = self._socket.fileno()
        data = b"" if reply is None else _data(message.request, vhost_user.VHOST_USER_REPLY_MASK, reply)
        answer = ctypes.create_string_buffer(data, len(data) or 1)
        if data:
            operations.append(operation(IOCB_CMD_PWRITE, fd, answer))
        waiting, self._waiting = self._waiting, 0
        room = ctypes.create_string_buffer(waiting or 1)
        if waiting:
            take = operation(IOCB_CMD_PREAD, fd, room)
            take.aio_flags, take.aio_resfd = IOCB_FLAG_RESFD, taken
            operations.append(take)
        assert self._aio is not None
        results = self._aio.submit(operations) if operations else []
        if data:
            _check_sent(results[0], len(data))
        if waiting and results[-1] != waiting:
            raise EOFError("the front end has gone")

    def _peek(self) -> tuple[bool, Message | None]:
        """Whether anything has come, and the next message, which stays in the socket; None if not all of it can be seen
        at once."""
        data, _ = self._receive(_HEADER_SIZE, socket.MSG_PEEK, 0)
        if data is None or len(data) < _HEADER_SIZE:
            return data is not None, None
        header = VhostUserHeader.from_buffer_copy(data)
        size = self._checked(header)
        data, fds = self._receive(size, socket.MSG_PEEK, _MOST_FDS)
        if data is None or len(data) < size:
            for fd in fds:
                os.close(fd)
            return True, None
        self._waiting = size
        return True, Message(header.request, header.flags, data[_HEADER_SIZE:], tuple(fds))

    def _checked(self, header: VhostUserHeader) -> int:
        """How many bytes the message has in all. Raises FrontEndError for what cannot be one."""
        operation = f"vhost-user message {header.request}"
        if header.flags & vhost_user.VHOST_USER_VERSION_MASK != vhost_user.VHOST_USER_VERSION:
            raise FrontEndError(errno.EPROTO, operation, {"flags": header.flags}, "not version 1 of the protocol")
        if header.size > _LARGEST_PAYLOAD:
            raise FrontEndError(errno.EMSGSIZE, operation, {"size": header.size}, "no message is that long")
        return _HEADER_SIZE + int(header.size)

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
            data, fds = self._receive(size - len(self._data), 0, _MOST_FDS)
            if data is None:
                return False
            self._fds += fds
            if len(self._fds) > _MOST_FDS:
                raise _too_many()
            self._data += data
        return True

    def _receive(self, size: int, flags: int, most_fds: int) -> tuple[bytes | None, list[int]]:
        """At most size bytes, or None if there are none now, and the descriptors that came with them.

        most_fds: how many there may be; with 0 they are left out. Raises EOFError, FrontEndError.
        """
        fds: list[int] = []
        try:
            data, ancillary, found, _ = self._socket.recvmsg(
                size,
                socket.CMSG_SPACE(4 * most_fds) if most_fds else 0,
                flags | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return None, fds
        except ConnectionError as error:
            raise EOFError("the front end has gone") from error
        except OSError as error:
            raise FrontEndError(error.errno or errno.EIO, "vhost-user message") from error
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
        if (found & socket.MSG_CTRUNC and most_fds) or len(fds) > most_fds:
            for fd in fds:
                os.close(fd)
            raise _too_many()
        if not data:
            raise EOFError("the front end has gone")
        return data, fds

    def _send(self, request: int, flags: int, payload: bytes) -> None:
        data = _data(request, flags, payload)
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            sent = -(error.errno or errno.EIO)
        _check_sent(sent, len(data))


def _data(request: int, flags: int, payload: bytes) -> bytes:
    header = VhostUserHeader(request=request, flags=vhost_user.VHOST_USER_VERSION | flags, size=len(payload))
    return bytes(header) + payload


def _check_sent(sent: int, size: int) -> None:
    """Raises FrontEndError unless all size bytes were sent, EOFError if nobody is there. sent: a negative errno for a
    failure."""
    if sent < 0 and -sent != errno.EAGAIN:
        raise EOFError("the front end has gone")
    if sent < size:
        raise FrontEndError(errno.EAGAIN, "vhost-user reply", meaning="the front end does not read its replies")


def _too_many() -> FrontEndError:
    meaning = "too many descriptors came with it, or this process has none left"
    return FrontEndError(errno.EMFILE, "vhost-user message", meaning=meaning)
