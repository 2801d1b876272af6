"""The messages of a front end, and the requests and protocol features that this back end knows."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from typing import Self, TypeVar

from virtiomem.vhost_user.abi import vhost_user
from virtiomem.vhost_user.errors import FrontEndError

S = TypeVar("S", bound=ctypes.Structure)


class FrontEndRequest(enum.IntEnum):
    """The requests that this back end understands, by the specification's names without their prefix."""

    GET_FEATURES = vhost_user.VHOST_USER_GET_FEATURES
    SET_FEATURES = vhost_user.VHOST_USER_SET_FEATURES
    SET_OWNER = vhost_user.VHOST_USER_SET_OWNER
    RESET_OWNER = vhost_user.VHOST_USER_RESET_OWNER
    SET_MEM_TABLE = vhost_user.VHOST_USER_SET_MEM_TABLE
    SET_VRING_NUM = vhost_user.VHOST_USER_SET_VRING_NUM
    SET_VRING_ADDR = vhost_user.VHOST_USER_SET_VRING_ADDR
    SET_VRING_BASE = vhost_user.VHOST_USER_SET_VRING_BASE
    GET_VRING_BASE = vhost_user.VHOST_USER_GET_VRING_BASE
    SET_VRING_KICK = vhost_user.VHOST_USER_SET_VRING_KICK
    SET_VRING_CALL = vhost_user.VHOST_USER_SET_VRING_CALL
    SET_VRING_ERR = vhost_user.VHOST_USER_SET_VRING_ERR
    GET_PROTOCOL_FEATURES = vhost_user.VHOST_USER_GET_PROTOCOL_FEATURES
    SET_PROTOCOL_FEATURES = vhost_user.VHOST_USER_SET_PROTOCOL_FEATURES
    GET_QUEUE_NUM = vhost_user.VHOST_USER_GET_QUEUE_NUM
    SET_VRING_ENABLE = vhost_user.VHOST_USER_SET_VRING_ENABLE
    SET_BACKEND_REQ_FD = vhost_user.VHOST_USER_SET_BACKEND_REQ_FD
    GET_CONFIG = vhost_user.VHOST_USER_GET_CONFIG
    SET_CONFIG = vhost_user.VHOST_USER_SET_CONFIG
    RESET_DEVICE = vhost_user.VHOST_USER_RESET_DEVICE
    GET_MAX_MEM_SLOTS = vhost_user.VHOST_USER_GET_MAX_MEM_SLOTS
    ADD_MEM_REG = vhost_user.VHOST_USER_ADD_MEM_REG
    REM_MEM_REG = vhost_user.VHOST_USER_REM_MEM_REG
    SET_STATUS = vhost_user.VHOST_USER_SET_STATUS
    GET_STATUS = vhost_user.VHOST_USER_GET_STATUS


class ProtocolFeature(enum.IntFlag):
    """The extensions of the protocol that this back end offers, by the specification's names without their prefix."""

    MQ = 1 << vhost_user.VHOST_USER_PROTOCOL_F_MQ
    REPLY_ACK = 1 << vhost_user.VHOST_USER_PROTOCOL_F_REPLY_ACK
    BACKEND_REQ = 1 << vhost_user.VHOST_USER_PROTOCOL_F_BACKEND_REQ
    CONFIG = 1 << vhost_user.VHOST_USER_PROTOCOL_F_CONFIG
    RESET_DEVICE = 1 << vhost_user.VHOST_USER_PROTOCOL_F_RESET_DEVICE
    CONFIGURE_MEM_SLOTS = 1 << vhost_user.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
    STATUS = 1 << vhost_user.VHOST_USER_PROTOCOL_F_STATUS


class Message:
    """A message, with the descriptors that came with it. The end of a with block closes those that were not taken.

    request: its number, which need not be a FrontEndRequest. flags: of its header. payload: what follows the header.
    """

    def __init__(self, request: int, flags: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self._fds = list(fds)

    @property
    def name(self) -> str:
        """The request's name, or its number if it has none."""
        try:
            return FrontEndRequest(self.request).name
        except ValueError:
            return f"request {self.request}"

    @property
    def needs_reply(self) -> bool:
        """Whether the front end waits for a reply, if REPLY_ACK is negotiated and the message has none of its own."""
        return bool(self.flags & vhost_user.VHOST_USER_NEED_REPLY_MASK)

    def parse(self, kind: type[S]) -> S:
        """The payload as a struct of this kind. Raises FrontEndError if it has another size."""
        self.require_size(ctypes.sizeof(kind))
        return kind.from_buffer_copy(self.payload)

    def number(self) -> int:
        """The payload as a u64. Raises FrontEndError if it has another size."""
        self.require_size(8)
        return int(ctypes.c_uint64.from_buffer_copy(self.payload).value)

    def require_size(self, size: int) -> None:
        """Raises FrontEndError unless the payload has size bytes."""
        if len(self.payload) != size:
            raise self.error(f"its payload has {len(self.payload)} bytes instead of {size}")

    def require_fds(self, count: int) -> None:
        """Raises FrontEndError unless count descriptors are left."""
        if len(self._fds) != count:
            raise self.error(f"{len(self._fds)} descriptors came with it instead of {count}")

    def take_fd(self) -> int:
        """Take the next descriptor, which is the caller's from now on. Raises FrontEndError if there is none."""
        if not self._fds:
            raise self.error("no descriptor came with it")
        return self._fds.pop(0)

    def error(self, meaning: str) -> FrontEndError:
        """A FrontEndError about this message."""
        return FrontEndError(errno.EPROTO, f"vhost-user {self.name}", meaning=meaning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.pop())
