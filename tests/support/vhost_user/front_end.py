"""A front end without a virtual machine: the messages QEMU sends, in its order, and memory to share."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from pyvfio import LinuxKernel, SharedMemory
from virtiomem import Request as GuestRequest
from virtiomem import VirtioMem
from virtiomem.device import Feature
from virtiomem.serving import EventLoop
from virtiomem.vhost_user import ConfigChanges, FrontEndEvents, VhostUserDevice
from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.abi.vhost_types import vhost_vring_addr, vhost_vring_state
from virtiomem.vhost_user.abi.vhost_user import (
    VhostUserConfig,
    VhostUserHeader,
    VhostUserMemory,
    VhostUserMemoryRegion,
    VhostUserMemRegMsg,
)
from virtiomem.vhost_user.messages import FrontEndRequest, ProtocolFeature

MIB = 1 << 20
BLOCK = 2 * MIB
REGION_ADDRESS = 0x1_0000_0000
REGION_SIZE = 16 * BLOCK
RAM_SIZE = 2 * MIB
RAM_USER_ADDRESS = 0x7F00_0000_0000
REGION_USER_ADDRESS = 0x7E00_0000_0000
QUEUE_SIZE = 8

VERSION_1, PACKED, INDIRECT, EVENT_IDX = 1 << 32, 1 << 34, 1 << 28, 1 << 29
PROTOCOL_FEATURES = 1 << abi.VHOST_USER_F_PROTOCOL_FEATURES
FEATURES = VERSION_1 | PROTOCOL_FEATURES | int(Feature.UNPLUGGED_INACCESSIBLE)
ALL = ProtocolFeature(sum(ProtocolFeature))

Request = FrontEndRequest


class Heard(FrontEndEvents):
    """What the device told, a word for each event."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def connected(self) -> None:
        self.words.append("connected")

    def disconnected(self, reason: str) -> None:
        self.words.append(f"disconnected: {reason}")

    def attached(self, size: int) -> None:
        self.words.append(f"attached {size:#x}")

    def started(self, features: int) -> None:
        self.words.append(f"started {features:#x}")

    def stopped(self) -> None:
        self.words.append("stopped")

    def told_of_change(self) -> None:
        self.words.append("told of change")

    def driver_refused(self, error: OSError) -> None:
        self.words.append(f"refused driver: {error}")

    def request_refused(self, request: GuestRequest, error: OSError) -> None:
        self.words.append(f"refused {request.type.name}: {error}")

    def refused(self, operation: str, error: OSError) -> None:
        self.words.append(f"refused {operation}: {error}")

    def broken(self, error: OSError) -> None:
        self.words.append(f"broken: {error}")

    def last(self, word: str) -> str:
        return next(said for said in reversed(self.words) if said.startswith(word))


class Backend(Protocol):
    """Whoever serves path. settle() returns when nothing is left to do, or at once where that is not known."""

    @property
    def path(self) -> str: ...

    def settle(self) -> None: ...

    def kicked(self, call: int, /) -> None:
        """As settle(), after a kick; call: what the device calls with when it has answered."""


class Elsewhere:
    """A Backend in another thread or process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def settle(self) -> None:
        """Replies are waited for."""

    def kicked(self, call: int) -> None:
        assert select.select([call], [], [], 60)[0]
        os.eventfd_read(call)


class Bench:
    """A Backend: a device at a socket, served turn by turn in this thread."""

    def __init__(
        self,
        path: str,
        *,
        requested: int = REGION_SIZE,
        block_size: int = BLOCK,
        file_offset: int | None = None,
        discard: bool = False,
    ) -> None:
        self.heard = Heard()
        self.changes = ConfigChanges()
        self.memory = SharedMemory(REGION_SIZE)
        self.device = VirtioMem(
            self.memory,
            address=REGION_ADDRESS,
            block_size=block_size,
            requested_size=requested,
            events=self.changes,
        )
        self.served = VhostUserDevice(
            path, self.device, self.memory, self.changes, self.heard, file_offset=file_offset, discard=discard
        )
        self.server = EventLoop([self.served])

    @property
    def path(self) -> str:
        return self.served.path

    def settle(self) -> None:
        """Serve until nothing is left to do."""
        while LinuxKernel().poll(self.served.descriptors, 0):
            self.server.turn(0)

    def kicked(self, _: int) -> None:
        self.settle()

    def close(self) -> None:
        self.server.close()
        self.served.close()
        self.device.close()
        self.memory.close()
        self.changes.close()


class Shared:
    """A memfd of the front end's, and its bytes. is_sealed: whether it can no longer be shortened, as QEMU's.

    fd: another file in its place, which is empty.
    """

    def __init__(self, size: int, *, is_sealed: bool = False, fd: int | None = None) -> None:
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if fd is None else fd
        os.ftruncate(self.fd, size)
        if is_sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.bytes = mmap.mmap(self.fd, size)

    def resident(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        if not self.bytes.closed:
            self.bytes.close()
            os.close(self.fd)


class FrontEnd:
    """Sends messages to a device and reads its replies; ram is at guest address 0, region at the region's."""

    def __init__(
        self,
        backend: Backend,
        protocol_features: int = int(ALL),
        region: Shared | None = None,
        ram: Shared | None = None,
    ) -> None:
        self.backend = backend
        self.protocol_features = protocol_features
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(backend.path)
        self.ram = ram or Shared(RAM_SIZE)
        self.region = region or Shared(REGION_SIZE)
        self.kick, self.call, self.error = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3))
        self.channel, theirs = socket.socketpair()
        self._theirs: socket.socket | None = theirs
        backend.settle()

    def close(self) -> None:
        self.vanish()
        self.region.close()

    def vanish(self) -> None:
        """As when the process is killed; whoever holds region keeps it. Twice is harmless."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        self.channel.close()
        if self._theirs is not None:
            self._theirs.close()
        self.ram.close()
        for fd in (self.kick, self.call, self.error):
            os.close(fd)
        self.backend.settle()

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        header = VhostUserHeader(request=request, flags=abi.VHOST_USER_VERSION | flags, size=len(payload))
        data = bytes(header) + payload
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        self.socket.sendmsg([data], ancillary)
        self.backend.settle()

    def reply(self) -> tuple[int, bytes]:
        """Request and payload."""
        header = VhostUserHeader.from_buffer_copy(self.socket.recv(ctypes.sizeof(VhostUserHeader)))
        assert header.flags == abi.VHOST_USER_VERSION | abi.VHOST_USER_REPLY_MASK
        return header.request, self.socket.recv(header.size) if header.size else b""

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send what has a reply of its own."""
        self.send(request, payload, fds)
        answered, reply = self.reply()
        assert answered == request
        return reply

    def number(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        return int(struct.unpack("=Q", self.ask(request, payload, fds))[0])

    def acknowledged(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send and ask whether it was done."""
        self.send(request, payload, fds, abi.VHOST_USER_NEED_REPLY_MASK)
        answered, reply = self.reply()
        assert answered == request
        return reply == u64(0)

    def gone(self) -> bool:
        """Whether the device has hung up."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def config(self, size: int = 56, offset: int = 0) -> bytes:
        wanted = bytes(VhostUserConfig(offset=offset, size=size))
        return self.ask(Request.GET_CONFIG, wanted + bytes(size))[len(wanted) :]

    def changes(self) -> int:
        """How many config changes have come since this was last asked."""
        self.backend.settle()
        self.channel.setblocking(False)
        try:
            data = self.channel.recv(4096)
        except BlockingIOError:
            return 0
        size = ctypes.sizeof(VhostUserHeader)
        for start in range(0, len(data), size):
            header = VhostUserHeader.from_buffer_copy(data, start)
            assert (header.request, header.size) == (abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0)
        return len(data) // size

    def connect(self) -> None:
        """What QEMU does at once."""
        offered = self.number(Request.GET_FEATURES)
        assert offered & FEATURES == FEATURES
        self.number(Request.GET_PROTOCOL_FEATURES)
        self.send(Request.SET_PROTOCOL_FEATURES, u64(self.protocol_features))
        if self.protocol_features & ProtocolFeature.MQ:
            assert self.number(Request.GET_QUEUE_NUM) == 1
        if self._theirs is not None and self.protocol_features & ProtocolFeature.BACKEND_REQ:
            self.send(Request.SET_BACKEND_REQ_FD, b"", [self._theirs.fileno()])
            self._theirs.close()
            self._theirs = None
        self.send(Request.SET_OWNER)

    def regions(self) -> list[VhostUserMemoryRegion]:
        return [region(0, RAM_SIZE, RAM_USER_ADDRESS), region(REGION_ADDRESS, REGION_SIZE, REGION_USER_ADDRESS)]

    def share(self, *regions: VhostUserMemoryRegion, fds: Sequence[int] = ()) -> None:
        """Default: ram and region."""
        entries = regions or tuple(self.regions())
        self.send(Request.SET_MEM_TABLE, table(*entries), fds or [self.ram.fd, self.region.fd])

    def start(self, features: int = FEATURES, *, base: int | None = None, size: int = QUEUE_SIZE) -> None:
        """What QEMU does when the driver is ready: the ring's areas are one page each, from address 0."""
        self.send(Request.SET_FEATURES, u64(features))
        self.share()
        self.send(Request.SET_VRING_NUM, state(size))
        base = base if base is not None else 0x8000_8000 if features & PACKED else 0
        self.send(Request.SET_VRING_BASE, state(base))
        self.send(Request.SET_VRING_ADDR, bytes(ring_address()))
        self.send(Request.SET_VRING_KICK, u64(0), [self.kick])
        self.send(Request.SET_VRING_CALL, u64(0), [self.call])
        self.send(Request.SET_VRING_ERR, u64(0), [self.error])
        if features & PROTOCOL_FEATURES:
            self.send(Request.SET_VRING_ENABLE, state(1))
        if self.protocol_features & ProtocolFeature.STATUS:
            self.send(Request.SET_STATUS, u64(15))

    def stop(self) -> int:
        """What QEMU does when the driver has gone; the ring's base."""
        if self.protocol_features & ProtocolFeature.STATUS:
            self.send(Request.SET_VRING_ENABLE, state(0))
        base = vhost_vring_state.from_buffer_copy(self.ask(Request.GET_VRING_BASE, state(0))).num
        if self.protocol_features & ProtocolFeature.STATUS:
            self.send(Request.SET_STATUS, u64(0))
        return int(base)

    def notify(self) -> None:
        """The driver kicks, and the device does all there is to do."""
        os.eventfd_write(self.kick, 1)
        self.backend.kicked(self.call)

    def called(self) -> bool:
        return _signalled(self.call)

    def told_of_error(self) -> bool:
        return _signalled(self.error)


def region(address: int, size: int, user_address: int, offset: int = 0) -> VhostUserMemoryRegion:
    return VhostUserMemoryRegion(
        guest_phys_addr=address, memory_size=size, userspace_addr=user_address, mmap_offset=offset
    )


def table(*entries: VhostUserMemoryRegion) -> bytes:
    return bytes(VhostUserMemory(nregions=len(entries))) + b"".join(map(bytes, entries))


def mem_reg(entry: VhostUserMemoryRegion) -> bytes:
    return bytes(VhostUserMemRegMsg(region=entry))


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def state(number: int, index: int = 0) -> bytes:
    return bytes(vhost_vring_state(index=index, num=number))


def ring_address() -> vhost_vring_addr:
    base = RAM_USER_ADDRESS
    return vhost_vring_addr(desc_user_addr=base, avail_user_addr=base + 0x1000, used_user_addr=base + 0x2000)


def _signalled(fd: int) -> bool:
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False
