"""Incoming: what a client sends, in lines, with the descriptors that come along."""

from __future__ import annotations

import io
import os
import socket
import struct
from typing import Final, Self

from virtiomem.control.protocol import ProtocolError

_MOST_DESCRIPTORS: Final = 4
"""How many a client may have on the way at a time: no request takes more than one."""


class Incoming:
    """The lines of a client, whose socket stays the caller's, and the descriptors that came with them.

    lines: a stream. It raises ProtocolError when more descriptors come than a client may send, or than this process has
    room for. descriptors: those that came since the last drop(), this process's; whoever takes one over removes it.
    """

    def __init__(self, client: socket.socket) -> None:
        self.descriptors: list[int] = []
        self.lines = io.BufferedReader(_Receiver(client, self.descriptors))

    def drop(self) -> None:
        """Close the descriptors that nobody has taken over."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self.lines.close()


class _Receiver(io.RawIOBase):
    def __init__(self, client: socket.socket, descriptors: list[int]) -> None:
        self._client = client
        self._descriptors = descriptors

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        room = socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        data, ancillary, flags, _ = self._client.recvmsg(len(buffer), room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > _MOST_DESCRIPTORS:
            raise ProtocolError("too many descriptors came along, or this process has no room for them")
        buffer[: len(data)] = data
        return len(data)
