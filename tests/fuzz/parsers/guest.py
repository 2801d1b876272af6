"""What a guest and its front end write: requests, rings, messages."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import closing
from functools import cache

from pyvfio.kernel import LinuxKernel
from tests.fuzz.parser import Parser
from virtiomem.device import ProtocolViolation, Request, Response
from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.errors import FrontEndError, QueueBroken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.messages import Message
from virtiomem.vhost_user.packed_queue import PackedQueue
from virtiomem.vhost_user.split_queue import SplitQueue
from virtiomem.vhost_user.virtqueue import RingFeatures, RingLayout

_STRUCTS: tuple[type[ctypes.Structure], ...] = (
    abi.VhostUserMemoryRegion,
    abi.VhostUserHeader,
)
_ROOM = 1 << 16
_USER = 0x7000_0000
_SIZE = 8


@cache
def _memory() -> tuple[MemoryTable, int]:
    """64 KiB of a guest, at the guest's address 0, and their file."""
    fd = os.memfd_create("ring")
    os.ftruncate(fd, _ROOM)
    table = MemoryTable(LinuxKernel())
    region = abi.VhostUserMemoryRegion(guest_phys_addr=0, memory_size=_ROOM, userspace_addr=_USER, mmap_offset=0)
    table.add(region, os.dup(fd))
    return table, fd


def _ring(data: bytes, kind: type[SplitQueue | PackedQueue]) -> None:
    """data: what the features are, and the ring's first bytes: descriptors at 0, the other areas at 4096 and 8192."""
    table, fd = _memory()
    os.pwrite(fd, bytes(0x3000), 0)
    os.pwrite(fd, data[1:0x3001], 0)
    flags = data[0] if data else 0
    layout = RingLayout(_SIZE, _USER, _USER + 0x1000, _USER + 0x2000)
    queue = kind(table, layout, RingFeatures(bool(flags & 1), bool(flags & 2)), 0)
    for _ in range(2 * _SIZE):
        if (chain := queue.pop()) is None:
            break
        assert len(chain.read(64)) <= 64
        chain.write(b"answer")
        queue.push(chain, 6)
        queue.must_notify()
    queue.enable_kicks()


def _messages(data: bytes) -> None:
    """What a front end sends, until it has gone."""
    ours, theirs = socket.socketpair()
    with theirs, closing(Connection(ours)) as connection:
        theirs.sendall(data[:4000])
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(100):
            # Of what is peeked at the rest is never taken, so that nothing follows it.
            message = connection.receive()
            if message is None or connection.is_waiting:
                if message is not None:
                    _payload(message)
                break
            _payload(message)


def _payload(message: Message) -> None:
    with message:
        assert message.name
        for read in (message.number, *(lambda kind=kind: message.parse(kind) for kind in _STRUCTS)):
            try:
                read()
            except FrontEndError:
                continue


def _request(data: bytes) -> None:
    bytes(Request.parse(data, 16))


GUEST = (
    Parser("guest-request", _request, (ProtocolViolation,)),
    Parser("guest-response", Response.parse, (ValueError,)),
    Parser("split-ring", lambda data: _ring(data, SplitQueue), (QueueBroken,)),
    Parser("packed-ring", lambda data: _ring(data, PackedQueue), (QueueBroken,)),
    Parser("vhost-user-message", _messages, (FrontEndError, EOFError), (b"\x01\0\0\0\x01\0\0\0\0\0\0\0",)),
)
