"""The mirror: what every address space holds is what is plugged, after each step of random guests.

The simulated kernel is asked for its mappings. The real one tells how many mappings are left and how much is pinned,
and its IOMMU, asked by DMA, which addresses lead to memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyvfio import Container, Ioas, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from pyvfio.sim import SimKernel
from pyvfio.sim.iommufd import IoasState, IommufdFile
from pyvfio.sim.process import File
from pyvfio.sim.vfio import ContainerState
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed
from virtiomem import DeviceBusy, DmaMapper, Request, RequestType, Response, ResponseType, Run, VirtioMem

BLOCK = MEBIBYTE
BLOCKS = 24
STEPS = 40
STAGING = 0x1000_0000
PAGE = 4096


class AddressSpace:
    """A device that is opened in an address space of its own for each time it takes part."""

    def __init__(self, mode: Mode, testbed: Testbed, address: str, world: World) -> None:
        self.mode = mode
        self.testbed = testbed
        self.address = address
        self.world = world
        self.joined = False
        self.stack = ExitStack()

    def join(self) -> None:
        self.space: Space = self.mode.open(self.testbed.kernel)
        self.stack.callback(self.space.close)
        self.engine = self.stack.enter_context(Edu(self.space.open_device(self.address)))
        self.limit = self.space.mappings_left
        self.space.map_dma(STAGING, self.world.staging, 0, PAGE)
        self.mapper = self.stack.enter_context(DmaMapper(self.space))
        self.world.device.discards.register(self.mapper, self.world.device.section)
        self.joined = True

    def leave(self) -> None:
        self.world.device.discards.unregister(self.mapper)
        self.expect([])
        self.joined = False
        self.stack.close()

    def expect(self, blocks: list[int]) -> None:
        """The kernel maps exactly these blocks, one by one, and the staging page."""
        assert self.space.mapping_count == len(blocks) + 1
        if self.limit is not None:
            assert self.space.mappings_left == self.limit - len(blocks) - 1
        if isinstance(self.testbed.kernel, SimKernel):
            memory = self.world.memory.address
            assert held_by(self.testbed.kernel, self.space) == [
                (STAGING, PAGE, self.world.staging.address),
                *((IOVA + block * BLOCK, BLOCK, memory + block * BLOCK) for block in blocks),
            ]

    def probe(self, block: int, plugged: bool) -> None:
        """The device writes to the block: it changes if it is plugged, and else nothing does."""
        note = self.world.random.randbytes(64)
        self.world.staging.write(0, note)
        self.engine.fetch(STAGING, len(note))
        offset = block * BLOCK + self.world.random.choice([0, BLOCK - PAGE])
        self.engine.store(IOVA + offset, len(note))
        assert self.world.memory.read(offset, len(note)) == (note if plugged else bytes(len(note)))
        if not plugged:
            self.world.memory.discard(offset, PAGE)


def held_by(kernel: SimKernel, space: Space) -> list[tuple[int, int, int]]:
    """iova, size and address of each mapping, as the simulated kernel knows them."""
    file = kernel.process.file(space.iommufd.fd if isinstance(space, Ioas) else space.fd, File)
    if isinstance(file, ContainerState):
        return [(mapping.iova, mapping.size, mapping.vaddr) for mapping in file.mappings]
    assert isinstance(file, IommufdFile)
    ioas = file.context.get(space.id, IoasState) if isinstance(space, Ioas) else file.context.compatible
    assert ioas is not None
    return [(area.iova, area.size, area.pages.source.start + area.offset) for area in ioas.areas]


class World:
    """A region of 24 blocks, a guest that asks for anything, and an address space for each device."""

    def __init__(self, mode: Mode, testbed: Testbed, seed: int, stack: ExitStack) -> None:
        self.random = random.Random(seed)
        self.kernel = testbed.kernel
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK, kernel=testbed.kernel))
        self.staging = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=testbed.kernel))
        self.mode = mode
        self.charged = mode.charged(testbed.kernel)
        self.device = stack.enter_context(
            VirtioMem(self.memory, address=IOVA, block_size=BLOCK, requested_size=BLOCKS * BLOCK)
        )
        self.spaces = [AddressSpace(mode, testbed, address, self) for address in testbed.devices[:3]]
        for space in self.spaces:
            stack.callback(space.stack.close)
        self.plugged: set[int] = set()

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, IOVA + block * BLOCK, count)))).type

    def step(self) -> None:
        block, count = self.random.randrange(BLOCKS), self.random.randint(1, 6)
        blocks = set(range(block, block + count))
        match self.random.choices(range(6), [6, 4, 1, 1, 2, 4])[0]:
            case 0:
                if self.ask(RequestType.PLUG, block, count) is ResponseType.ACK:
                    assert not blocks & self.plugged
                    self.plugged |= blocks
            case 1:
                if self.ask(RequestType.UNPLUG, block, count) is ResponseType.ACK:
                    assert blocks <= self.plugged
                    self.plugged -= blocks
            case 2:
                assert self.ask(RequestType.UNPLUG_ALL) is ResponseType.ACK
                self.plugged.clear()
            case 3:
                self.reset()
            case 4:
                self.device.resize(self.random.randint(BLOCKS // 2, BLOCKS) * BLOCK)
            case _:
                space = self.random.choice(self.spaces)
                if space.joined:
                    space.leave()
                else:
                    space.join()

    def reset(self) -> None:
        """In the middle of a migration it must change nothing."""
        self.device.migrating = self.random.random() < 0.5
        try:
            self.device.system_reset()
            self.plugged.clear()
        except DeviceBusy:
            assert self.device.migrating
            assert self.plugged
        self.device.migrating = False

    def expect_mirrored(self) -> None:
        joined = [space for space in self.spaces if space.joined]
        for space in joined:
            space.expect(sorted(self.plugged))
        pinned = len(self.plugged) * BLOCK + PAGE
        assert self.mode.charged(self.kernel) - self.charged == len(joined) * pinned
        assert self.device.config.plugged_size == len(self.plugged) * BLOCK
        assert self.memory.resident(0, self.memory.size) == len(self.plugged) * BLOCK


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("seed", range(3))
def test_every_address_space_holds_what_is_plugged(mode: Mode, testbed: Testbed, seed: int, stack: ExitStack) -> None:
    world = World(mode, testbed, seed, stack)
    for number in range(STEPS):
        world.step()
        world.expect_mirrored()
        joined = [space for space in world.spaces if space.joined]
        if joined and (isinstance(world.kernel, SimKernel) or number % 10 == 9):
            block = world.random.randrange(BLOCKS)
            world.random.choice(joined).probe(block, block in world.plugged)
            world.expect_mirrored()
    for space in world.spaces:
        if space.joined:
            space.leave()
    assert mode.charged(world.kernel) == world.charged


def test_100_mib_in_2_mib_blocks_is_50_maps_and_one_unmap(testbed: Testbed, stack: ExitStack) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 256 << 20, kernel=testbed.kernel))
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=2 << 20, requested_size=memory.size))
    container = stack.enter_context(Container(kernel=testbed.kernel))
    container.open_device(testbed.devices[0])
    left = container.mappings_left
    assert left is not None
    mapper = stack.enter_context(DmaMapper(container))
    device.discards.register(mapper, device.section)
    stack.callback(device.discards.unregister, mapper)
    assert Response.parse(device.handle(bytes(Request(RequestType.PLUG, IOVA, 50)))).type is ResponseType.ACK
    assert (container.calls.map, container.calls.unmap, container.mappings_left) == (50, 0, left - 50)
    assert Response.parse(device.handle(bytes(Request(RequestType.UNPLUG, IOVA, 50)))).type is ResponseType.ACK
    assert (container.calls.map, container.calls.unmap, container.mappings_left) == (50, 1, left)
    assert device.populated_runs(Run(0, memory.size)) == []
