"""Guest requests and the device's answers, to and from their wire format."""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass
from typing import Final

from virtiomem import abi
from virtiomem.device.answers import ResponseType
from virtiomem.device.errors import ProtocolViolation

REQUEST_SIZE: Final = ctypes.sizeof(abi.virtio_mem_req)
RESPONSE_SIZE: Final = ctypes.sizeof(abi.virtio_mem_resp)


class RequestType(enum.IntEnum):
    """What the guest asks: to plug or unplug blocks, to unplug all of them, or for the state of blocks."""

    PLUG = abi.VIRTIO_MEM_REQ_PLUG
    UNPLUG = abi.VIRTIO_MEM_REQ_UNPLUG
    UNPLUG_ALL = abi.VIRTIO_MEM_REQ_UNPLUG_ALL
    STATE = abi.VIRTIO_MEM_REQ_STATE


class BlockState(enum.IntEnum):
    """The answer to STATE: all of the blocks are plugged, none is, or some are."""

    PLUGGED = abi.VIRTIO_MEM_STATE_PLUGGED
    UNPLUGGED = abi.VIRTIO_MEM_STATE_UNPLUGGED
    MIXED = abi.VIRTIO_MEM_STATE_MIXED


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the guest; bytes() of it is the wire format, struct virtio_mem_req.

    type: what it asks. addr: where its first block begins, guest-physical. nb_blocks: how many blocks of the device's
    block size it names. addr and nb_blocks mean nothing in UNPLUG_ALL.
    """

    type: RequestType
    addr: int = 0
    nb_blocks: int = 0

    def __bytes__(self) -> bytes:
        request = abi.virtio_mem_req(type=self.type)
        request.u.plug.addr = self.addr
        request.u.plug.nb_blocks = self.nb_blocks
        return bytes(request)

    @classmethod
    def parse(cls, data: bytes, response_size: int) -> Request:
        """Read the request from data, whose padding and surplus bytes are ignored.

        response_size: bytes that the guest left for the response. Raises ProtocolViolation if either buffer is too
        small, and for an unknown type.
        Source: virtio 1.3, 5.15.6; QEMU, hw/virtio/virtio-mem.c, virtio_mem_handle_request.
        """
        if len(data) < REQUEST_SIZE:
            raise _violation(f"its request has {len(data)} bytes instead of {REQUEST_SIZE}")
        if response_size < RESPONSE_SIZE:
            raise _violation(f"it left {response_size} bytes for the response instead of {RESPONSE_SIZE}")
        request = abi.virtio_mem_req.from_buffer_copy(data)
        try:
            kind = RequestType(request.type)
        except ValueError:
            raise _violation(f"its request has the unknown type {request.type}") from None
        # plug, unplug and state are laid out alike.
        return cls(kind, request.u.plug.addr, request.u.plug.nb_blocks)


@dataclass(frozen=True, slots=True)
class Response:
    """The device's answer to a request; bytes() of it is the wire format, struct virtio_mem_resp.

    type: the code. state: the answer to an acknowledged STATE request, zero otherwise.
    """

    type: ResponseType
    state: BlockState | int = 0

    def __bytes__(self) -> bytes:
        response = abi.virtio_mem_resp(type=self.type)
        response.u.state.state = self.state
        return bytes(response)

    @classmethod
    def parse(cls, data: bytes) -> Response:
        """Read the response from data, as the guest does. Raises ValueError for codes that do not exist."""
        response = abi.virtio_mem_resp.from_buffer_copy(data)
        return cls(ResponseType(response.type), BlockState(response.u.state.state))


def _violation(meaning: str) -> ProtocolViolation:
    return ProtocolViolation(errno.EPROTO, "guest request", meaning=f"the guest broke the protocol: {meaning}")
