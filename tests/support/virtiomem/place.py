"""A managed device that a test plugs, with address spaces that come and go, behind a control socket."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from pyvfio import Kernel, Memory, MemoryKind
from pyvfio.dma import AddressSpace
from tests.support.virtiomem.managers import ADDRESS, BLOCK
from tests.support.virtiomem.spaces import LoggingSpace
from virtiomem import DmaMapper, Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.control import ControlClient, ControlServer, ManagedDevice

PAGE = 4096
BLOCKS = 16


class Idle:
    """A guest that a test plays."""

    state = "a test"
    waiting_for = None


class Place:
    """A device that the test plugs, with address spaces that come and go, behind a socket of its own."""

    def __init__(self, stack: ExitStack, path: Path, *, blocks: int = BLOCKS, kernel: Kernel | None = None) -> None:
        self.path = path
        self.stack = stack
        self.spaces: list[AddressSpace] = []
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, blocks * BLOCK, kernel=kernel))
        self.device = stack.enter_context(
            VirtioMem(
                self.memory,
                address=ADDRESS,
                block_size=BLOCK,
                requested_size=blocks * BLOCK,
                prealloc=False,
                name="vm0",
            )
        )
        self.managed = ManagedDevice(self.device, Idle(), "anon", PAGE, lambda: tuple(self.spaces))
        self.server = stack.enter_context(ControlServer(str(path), lambda: None))
        self.server.manage(self.managed)
        stack.callback(self.server.forget, "vm0")

    def join(self, space: LoggingSpace) -> DmaMapper:
        mapper = DmaMapper(space)
        self.device.discards.register(mapper, self.device.section)
        self.spaces.append(space)
        self.stack.callback(self.device.discards.unregister, mapper)
        return mapper

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        address = ADDRESS + block * BLOCK
        return Response.parse(self.device.handle(bytes(Request(kind, address, count)))).type

    def until_over(self) -> None:
        """Wait until nothing migrates, as the server says it."""
        with self.connected() as client:
            revision = -1
            for _ in range(100):
                revision, (status,) = client.show(after=revision, timeout=5.0)
                if not status.migrating:
                    return
        raise AssertionError("it migrates still")

    def connected(self) -> ControlClient:
        return ControlClient(self.path)
