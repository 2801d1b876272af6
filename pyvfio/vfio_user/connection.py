"""Connection: one end of a vfio-user socket, message by message."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Self

from pyvfio.unix_socket import connected_stream
from pyvfio.vfio_user import abi
from pyvfio.vfio_user.abi import vfio_user_header
from pyvfio.vfio_user.errors import PeerError, PeerGone
from pyvfio.vfio_user.message import HEADER_SIZE, Message, name_of

MOST_FDS: Final = 16
"""Descriptors that come with one message at most."""
LARGEST_VERSION: Final = 4096
"""Bytes of the payload of any message before the two ends have agreed on a version."""
_MOST_UNSENT: Final = 4 << 20
"""Bytes that wait for the other end to read them; it is not served any more before it has."""
_KNOWN_FLAGS: Final = abi.VFIO_USER_F_TYPE_MASK | abi.VFIO_USER_F_NO_REPLY | abi.VFIO_USER_F_ERROR


class Connection:
    """Receives and sends messages, and never waits. Owns its socket, and descriptors that came with half a message.

    What the other end does not take at once is kept and sent by flush(). The other end has patience seconds for a
    message that it has begun to send, and for what was sent to it: then overdue is no longer None, and this one is to
    be closed.
    largest_payload: bytes that may follow a header; more is no message.
    """

    def __init__(
        self, endpoint: socket.socket, *, patience: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take endpoint, a connected unix stream socket, over."""
        endpoint.setblocking(False)
        self.largest_payload = LARGEST_VERSION
        self._socket = endpoint
        self._patience = patience
        self._clock = clock
        self._data = bytearray()
        self._fds: list[int] = []
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._unsent_size = 0
        # When the half of a message that is here began to come, and when the other end took something last.
        self._begun: float | None = None
        self._stuck: float | None = None
        # Readable when there is something to do: select.poll() of whoever waits asks for input alone.
        self._readiness = select.epoll()
        self._readiness.register(endpoint, select.EPOLLIN)

    @classmethod
    def over(cls, fd: int, *, patience: float = 10.0, clock: Callable[[], float] = time.monotonic) -> Self:
        """A connection over the descriptor of a connected unix stream socket, which is closed if it is none.

        Raises OSError.
        """
        endpoint = connected_stream(fd)
        try:
            return cls(endpoint, patience=patience, clock=clock)
        except OSError:
            endpoint.close()
            raise

    def fileno(self) -> int:
        """A descriptor that is readable when receive() or flush() has something to do; -1 after close()."""
        return -1 if self._readiness.closed else self._readiness.fileno()

    @property
    def socket_fd(self) -> int:
        """The socket's descriptor; -1 after close()."""
        return self._socket.fileno()

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a message is here, neither of one that comes nor of one that goes."""
        return not self._data and not self._unsent

    @property
    def has_unsent(self) -> bool:
        """Whether the other end has yet to take what was sent to it."""
        return bool(self._unsent)

    @property
    def due(self) -> float | None:
        """When, by the clock, the other end is late; None if nothing is expected of it."""
        times = [since + self._patience for since in (self._begun, self._stuck) if since is not None]
        return min(times, default=None)

    def require_progress(self) -> None:
        """Raises PeerError if the other end is late."""
        due = self.due
        if due is not None and self._clock() >= due:
            what = "has stopped in the middle of a message" if self._begun is not None else "does not read its replies"
            raise PeerError(errno.ETIMEDOUT, "vfio-user session", meaning=f"the other end {what}")

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        self._readiness.close()
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())
        while self._unsent:
            _close_all(self._unsent.popleft()[1])

    def detach(self) -> int:
        """Close all but the socket, and return its descriptor, which is the caller's from now on."""
        fd = self._socket.detach()
        self.close()
        return fd

    def receive(self) -> Message | None:
        """The next message; None if not all of it has come yet. Nothing can be received after an exception.

        Raises PeerGone, and PeerError for what cannot be a message.
        """
        if not self._fill(HEADER_SIZE):
            return None
        header = vfio_user_header.from_buffer_copy(self._data)
        if not self._fill(self._checked(header)):
            return None
        payload, fds = bytes(memoryview(self._data)[HEADER_SIZE:]), tuple(self._fds)
        self._data.clear()
        self._fds.clear()
        self._begun = None
        return Message(header, payload, fds)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, or keep what the other end does not take yet. fds stay the caller's.

        Raises PeerGone, PeerError if too much is kept already, and OSError if no descriptor is left to keep.
        """
        if self._unsent_size + len(data) > _MOST_UNSENT:
            raise PeerError(errno.EAGAIN, "vfio-user session", meaning="the other end does not read its replies")
        sent = 0 if self._unsent else self._send(data, fds)
        if sent == len(data):
            return
        kept: list[int] = []
        try:
            # With the first byte they have gone.
            kept.extend(os.dup(fd) for fd in (fds if not sent else ()))
        except OSError:
            _close_all(kept)
            raise
        self._unsent.append((data[sent:], tuple(kept)))
        self._unsent_size += len(data) - sent
        if self._stuck is None:
            self._stuck = self._clock()
            self._readiness.modify(self._socket, select.EPOLLOUT)

    def flush(self) -> None:
        """Send what is kept, or as much of it as the other end takes. Raises PeerGone."""
        if not self._unsent:
            return
        while self._unsent:
            data, fds = self._unsent.popleft()
            try:
                sent = self._send(data, fds)
            except BaseException:
                _close_all(fds)
                raise
            self._unsent_size -= sent
            if sent < len(data):
                self._unsent.appendleft((data[sent:], () if sent else fds))
                if sent:
                    self._stuck = self._clock()
                    _close_all(fds)
                return
            _close_all(fds)
        self._stuck = None
        self._readiness.modify(self._socket, select.EPOLLIN)

    def _send(self, data: bytes, fds: Sequence[int]) -> int:
        """How many bytes the socket took. Raises PeerGone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            return self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _gone() from error

    def _fill(self, size: int) -> bool:
        """Receive until size bytes of this message are here, and none of the next; return whether they are."""
        while len(self._data) < size:
            try:
                data, ancillary, found, _ = self._socket.recvmsg(
                    size - len(self._data),
                    socket.CMSG_SPACE(4 * MOST_FDS),
                    socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return False
            except OSError as error:
                raise _gone() from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
            if found & socket.MSG_CTRUNC or len(self._fds) > MOST_FDS:
                meaning = "too many descriptors came with it, or this process has none left"
                raise PeerError(errno.EMFILE, "vfio-user message", meaning=meaning)
            if not data:
                raise _gone()
            if self._begun is None:
                self._begun = self._clock()
            self._data += data
        return True

    def _checked(self, header: vfio_user_header) -> int:
        """How many bytes the message has in all. Raises PeerError for what cannot be one."""
        operation = f"vfio-user {name_of(header.cmd)}"
        kind = header.flags & abi.VFIO_USER_F_TYPE_MASK
        if header.flags & ~_KNOWN_FLAGS or kind not in (abi.VFIO_USER_F_TYPE_COMMAND, abi.VFIO_USER_F_TYPE_REPLY):
            raise PeerError(errno.EPROTO, operation, {"flags": header.flags}, "no message has such flags")
        if not HEADER_SIZE <= header.msg_size <= HEADER_SIZE + self.largest_payload:
            arguments = {"size": header.msg_size, "largest": HEADER_SIZE + self.largest_payload}
            raise PeerError(errno.EMSGSIZE, operation, arguments, "no message has that size here")
        return int(header.msg_size)


def _gone() -> PeerGone:
    return PeerGone(errno.ECONNRESET, "vfio-user session", meaning="the other end has gone")


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
