"""Nothing is mapped that nobody knows of, wherever a signal handler raises: at every system call, at every bytecode.

After each exception: mappings() has all that the kernel has, what is mapped is not discarded, unmapping or closing
cleans up, and then nothing is pinned, held or mapped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from pyvfio import Container, Ioas, Memory, MemoryKind, NotMapped, StillMapped, VfioError
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FaultyKernel, Interrupt
from pyvfio.sim import SimKernel
from tests.support.kernels.held import charged, expect_known, held_by

BLOCK = 0x10_000
IOVA = 0x1_0000_0000
BLOCKS = 3
SIZE = BLOCKS * BLOCK
Space = Container | Ioas
WAYS: dict[str, tuple[tuple[int, int], Callable[[FaultyKernel], Space]]] = {
    "container": ((6, 12), lambda kernel: Container(kernel=kernel)),
    "iommufd": ((7, 2), lambda kernel: Ioas(kernel=kernel)),
    "compat": ((7, 2), lambda kernel: Container(kernel=kernel, path="/dev/iommu")),
}
KINDS = (MemoryKind.ANONYMOUS, MemoryKind.MEMFD)
LIBRARY = tuple(f"/pyvfio/{room}/" for room in ("dma", "container", "iommufd", "memory"))


class World:
    """An address space with a device, memory to map, and a second device that is not open."""

    def __init__(self, stack: ExitStack, way: str, kind: MemoryKind = MemoryKind.ANONYMOUS) -> None:
        version, opened = WAYS[way]
        self.simulated = SimKernel(edu_devices=2, version=version)
        self.kernel = FaultyKernel(self.simulated)
        self.memory = stack.enter_context(Memory.allocate(kind, 2 * SIZE, kernel=self.kernel))
        self.space: Space = opened(self.kernel)
        stack.callback(self.space.close)
        self.source: Ioas | None = None
        self.first, self.second = edu_addresses(self.simulated)
        self.space.open_device(self.first)
        self.memory.populate(0, self.memory.size)

    def map(self) -> None:
        self.space.map_dma(IOVA, self.memory, 0, SIZE, granularity=BLOCK)

    def unmap(self) -> None:
        self.space.unmap_dma(IOVA, SIZE)

    def expect_safe(self) -> None:
        """What the kernel has is known, and is not discarded."""
        expect_known(self.simulated, self.space, self.memory)
        for _, size, offset in held_by(self.simulated, self.space, self.memory):
            with pytest.raises(StillMapped):
                self.memory.discard(offset, size)

    def expect_nothing(self) -> None:
        assert held_by(self.simulated, self.space, self.memory) == []
        assert (self.space.mappings(), self.space.mapping_count, self.space.unconfirmed()) == ((), 0, ())
        assert charged(self.simulated) == 0
        self.memory.discard(0, self.memory.size)
        self.memory.populate(0, self.memory.size)

    def clean_up(self) -> None:
        """As a program does that has caught the exception."""
        with suppress(NotMapped):
            self.unmap()
        self.space.unmap_all()
        if self.source is not None:
            self.source.close()


@contextmanager
def a_world(way: str, kind: MemoryKind = MemoryKind.ANONYMOUS) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(stack, way, kind)
        stack.callback(world.kernel.arm)
        yield world


@dataclass(frozen=True)
class Operation:
    """act comes after prepare. only: by which ways there is such a thing."""

    act: Callable[[World], object]
    prepare: Callable[[World], object] = lambda _world: None
    only: tuple[str, ...] = tuple(WAYS)


def map_source(world: World) -> None:
    assert isinstance(world.space, Ioas)
    world.source = Ioas(world.space.iommufd)
    world.source.map_dma(IOVA, world.memory, 0, SIZE, granularity=BLOCK)


def copy(world: World) -> None:
    assert isinstance(world.space, Ioas)
    assert world.source is not None
    world.space.copy_from(world.source, IOVA, SIZE, IOVA)


def map_anywhere(world: World) -> None:
    assert isinstance(world.space, Ioas)
    world.space.map_anywhere(world.memory, BLOCK, BLOCK)


OPERATIONS = {
    "map": Operation(World.map),
    "map beside": Operation(
        World.map, lambda world: world.space.map_dma(IOVA + SIZE, world.memory, SIZE, SIZE, granularity=BLOCK)
    ),
    "map anywhere": Operation(map_anywhere, only=("iommufd",)),
    "copy": Operation(copy, map_source, only=("iommufd",)),
    "unmap": Operation(World.unmap, World.map),
    "unmap a part": Operation(lambda world: world.space.unmap_dma(IOVA + BLOCK, BLOCK), World.map),
    "unmap all": Operation(lambda world: world.space.unmap_all(), World.map),
    "unmap everything": Operation(lambda world: world.space.unmap_everything(), World.map),
    "open another device": Operation(lambda world: world.space.open_device(world.second), World.map),
    "close": Operation(lambda world: world.space.close(), World.map),
}


@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
@pytest.mark.parametrize(("name", "way"), [(name, way) for name, each in OPERATIONS.items() for way in each.only])
def test_an_exception_at_any_system_call(name: str, way: str, kind: MemoryKind, is_made: bool) -> None:
    operation = OPERATIONS[name]
    for nth in range(1000):
        with a_world(way, kind) as world:
            operation.prepare(world)
            world.kernel.arm(Interrupt(nth, is_made=is_made))
            try:
                operation.act(world)
            except KeyboardInterrupt:
                world.kernel.arm()
                world.expect_safe()
                if name == "close":
                    # Whether it can be tried again is not the mappings' affair.
                    with suppress(VfioError):
                        world.space.close()
                    continue
                world.clean_up()
                world.expect_nothing()
                world.map()
                world.unmap()
            else:
                assert nth > 0
                break


# Every bytecode.


class AtOpcode:
    """Raises KeyboardInterrupt at the nth bytecode that runs in the library's own files, while it is entered.

    The interpreter runs a signal handler at fewer places. One of those that it never does is where a with statement
    ends: the lock is not given back then. Locks are reentrant, so the one thread of these tests does not notice.
    """

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __enter__(self) -> None:
        sys.settrace(self._enter_frame)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if not any(room in frame.f_code.co_filename for room in LIBRARY):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step


BYTECODES = ("map", "map anywhere", "copy", "unmap", "unmap everything")
BYTECODE_CASES = [(name, way) for name in BYTECODES for way in OPERATIONS[name].only if way != "compat"]


@pytest.mark.parametrize(("name", "way"), BYTECODE_CASES)
def test_an_exception_at_any_bytecode(name: str, way: str) -> None:
    operation = OPERATIONS[name]
    with a_world(way) as world:
        for nth in range(100_000):
            operation.prepare(world)
            try:
                with AtOpcode(nth):
                    operation.act(world)
            except KeyboardInterrupt:
                world.expect_safe()
                world.clean_up()
                world.expect_nothing()
            else:
                break
        assert nth > 100
        world.clean_up()
        world.expect_nothing()


@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["container", "iommufd"])
def test_a_second_exception_at_any_bytecode_of_the_way_back(way: str, is_made: bool) -> None:
    """The first one comes at the second of three blocks."""
    with a_world(way) as world:
        world.map()
        world.unmap()
        for nth in range(100_000):
            world.kernel.arm(Interrupt(1, is_made=is_made))
            opcode = AtOpcode(nth)
            with pytest.raises(KeyboardInterrupt), opcode:
                world.map()
            world.kernel.arm()
            world.expect_safe()
            world.clean_up()
            world.expect_nothing()
            if opcode.left >= 0:
                break
