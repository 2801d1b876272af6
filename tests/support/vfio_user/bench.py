"""A device of the simulated kernel behind a vfio-user socket, served turn by turn, and the client's end by hand."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from pyvfio import Container, LinuxKernel
from pyvfio.abi import vfio
from pyvfio.faults import FaultyKernel
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import VFIO_DRIVER, Bus, Model, PciFunction, PlainDevice
from pyvfio.vfio_user import GuestMemory, GuestRange, ServedDevice, Server, ServerEvents, abi
from pyvfio.vfio_user.message import HEADER_SIZE

ADDRESS = "0000:00:03.0"
MIB = 1 << 20
QEMU = {
    "pgsizes": 4096,
    "max_msg_fds": 16,
    "max_dma_maps": 65535,
    "max_data_xfer_size": 1048576,
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096},
    "write_multiple": True,
}
"""The capabilities that QEMU 11.1 proposes."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Heard(ServerEvents):
    """What a server told, a word for each event."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def connected(self) -> None:
        self.words.append("connected")

    def turned_away(self) -> None:
        self.words.append("turned away")

    def agreed(self) -> None:
        self.words.append("agreed")

    def refused(self, command: str, error: OSError) -> None:
        self.words.append(f"refused {command}: {error}")

    def not_mapped(self, part: GuestRange, error: OSError) -> None:
        self.words.append(f"not mapped {part.address:#x}: {error}")

    def still_mapped(self, address: int, error: OSError) -> None:
        self.words.append(f"still mapped {address:#x}: {error}")

    def not_ended(self, step: str, error: OSError) -> None:
        self.words.append(f"not ended, {step}: {error}")

    def disconnected(self, reason: str) -> None:
        self.words.append(f"disconnected: {reason}")


class Bench:
    """A device, a container and a server at a socket, which turns only in settle() and pass_time()."""

    def __init__(
        self,
        path: Path,
        model: Callable[[Bus], Model] = PlainDevice,
        *,
        kernel: SimKernel | None = None,
        by_real_time: bool = False,
    ) -> None:
        self.heard = Heard()
        self.clock = Clock()
        self.simulated = kernel or SimKernel(host_huge_pages=False)
        self.simulated.add(PciFunction(ADDRESS, 0, driver=VFIO_DRIVER, model=model))
        self.kernel = FaultyKernel(self.simulated)
        self.path = str(path / "device.sock")
        with ExitStack() as stack:
            self.container = stack.enter_context(Container(kernel=self.kernel))
            self.device = self.container.open_device(ADDRESS)
            self.memory = GuestMemory(self.container)
            self.server = stack.enter_context(
                Server(
                    self.path,
                    ServedDevice(self.device),
                    self.memory.listener(),
                    events=self.heard,
                    clock=time.monotonic if by_real_time else self.clock,
                )
            )
            self._cleanup = stack.pop_all()

    def settle(self) -> None:
        """Serve until nothing is left to do."""
        serve(self.server)

    def pass_time(self, seconds: float = 1.0) -> None:
        """Serve, and again when the time has passed."""
        self.settle()
        self.clock.now += seconds
        self.server.flush_events()
        self.settle()

    @property
    def mappings(self) -> list[tuple[int, int, int]]:
        """Address, size and access of each mapping of the container."""
        return [(run.iova, run.size, int(run.access)) for run in self.container.mappings()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()


def serve(server: Server) -> None:
    """Serve until nothing is left to do."""
    while ready := LinuxKernel().poll(server.descriptors, 0):
        for fd in ready:
            server.ready(fd)
        server.flush_events()


class Reply:
    """A reply: its number, command, flags, errno and payload, and how many descriptors came with it."""

    def __init__(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.identity, self.command, self.size, self.flags, self.error = struct.unpack_from("=HHIII", data)
        self.payload = data[HEADER_SIZE:]
        self.fds = tuple(fds)
        for fd in fds:
            os.close(fd)
        assert self.size == len(data)


class RawClient:
    """A client that sends what it is told to. After each message the bench serves, if there is one."""

    def __init__(self, path: str, settle: Callable[[], None] = lambda: None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.socket.settimeout(10)
        self._settle = settle
        self._number = 0
        self._settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> int:
        """Send a command, and return its number."""
        self._number += 1
        header = struct.pack("=HHIII", self._number, command, HEADER_SIZE + len(payload), flags, 0)
        self.send_bytes(header + payload, fds)
        return self._number

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sent = self.socket.sendmsg([data], rights)
        while sent < len(data):
            self._settle()
            sent += self.socket.send(data[sent:])
        self._settle()

    def receive(self) -> Reply:
        """The next reply."""
        header, fds, _, _ = socket.recv_fds(self.socket, HEADER_SIZE, 16)
        if not header:
            raise EOFError
        (size,) = struct.unpack_from("=I", header, 4)
        data = bytearray(header)
        while len(data) < size:
            data += self.socket.recv(size - len(data))
            self._settle()
        return Reply(bytes(data), fds)

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Reply:
        """Send a command; its reply."""
        number = self.send(command, payload, fds)
        reply = self.receive()
        assert (reply.identity, reply.command) == (number, command)
        return reply

    def is_answered(self) -> bool:
        """Whether a reply has come that was not received yet."""
        return bool(LinuxKernel().poll([self.socket.fileno()], 0))

    def has_been_left(self) -> bool:
        """Whether the server has closed the connection, and nothing is left to receive."""
        try:
            return self.is_answered() and self.socket.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            # With something unread.
            return True

    # What QEMU sends.

    def agree(self, capabilities: object = QEMU) -> Reply:
        return self.ask(abi.VFIO_USER_VERSION, version(capabilities))

    def map(self, address: int, size: int, fd: int | None = None, offset: int = 0, flags: int = 3) -> int:
        return self.send(
            abi.VFIO_USER_DMA_MAP, dma_map(address, size, offset=offset, flags=flags), [] if fd is None else [fd]
        )

    def unmap(self, address: int, size: int) -> int:
        return self.send(abi.VFIO_USER_DMA_UNMAP, dma_unmap(address, size))

    def read(self, region: int, offset: int, size: int) -> Reply:
        return self.ask(abi.VFIO_USER_REGION_READ, access(region, offset, size))

    def write(self, region: int, offset: int, data: bytes) -> Reply:
        return self.ask(abi.VFIO_USER_REGION_WRITE, access(region, offset, len(data)) + data)

    def set_irqs(
        self, flags: int, index: int, start: int, count: int, fds: Sequence[int] = (), data: bytes = b""
    ) -> Reply:
        return self.ask(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(flags, index, start, count, data), fds)


def version(capabilities: object = QEMU, major: int = 0, minor: int = 0) -> bytes:
    """The payload of VERSION, with JSON."""
    return struct.pack("=HH", major, minor) + json.dumps({"capabilities": capabilities}).encode() + b"\0"


def dma_map(address: int, size: int, *, offset: int = 0, flags: int = 3, argsz: int = 32) -> bytes:
    return struct.pack("=IIQQQ", argsz, flags, offset, address, size)


def dma_unmap(address: int, size: int, *, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("=IIQQ", argsz, flags, address, size)


def access(region: int, offset: int, count: int) -> bytes:
    return struct.pack("=QII", offset, region, count)


def irq_set(flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int | None = None) -> bytes:
    return struct.pack("=IIIII", 20 + len(data) if argsz is None else argsz, flags, index, start, count) + data


def region_info(index: int, argsz: int = 32) -> bytes:
    return bytes(vfio.vfio_region_info(argsz=argsz, index=index))


def guest_file(size: int) -> int:
    """A file as QEMU's memory-backend-memfd has it; the caller closes it."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def eventfds(count: int) -> list[int]:
    return [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]


def sizeof(struct_: type[ctypes.Structure]) -> int:
    return ctypes.sizeof(struct_)
