"""Nothing is mapped that nobody knows of, wherever a signal handler raises: at every system call, at every bytecode.

After each exception: mappings() has all that the kernel has, what is mapped is not discarded, unmapping or closing
cleans up, and then nothing is pinned, held or mapped.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from pyvfio import CdevDevice, Container, Device, Group, Ioas, Memory, MemoryKind, NotMapped, StillMapped, VfioError
from pyvfio.abi.iommufd import IOMMU_IOAS_MAP, IOMMU_IOAS_UNMAP
from pyvfio.abi.vfio import VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FaultyKernel, Hold, Interrupt
from pyvfio.sim import SimKernel
from pyvfio.sysfs import pci_device
from tests.support.at_opcode import AtOpcode
from tests.support.kernels.held import charged, expect_known, held_by
from tests.support.thorough import stride

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
        self.devices: list[Device] = [self.space.open_device(self.first)]
        self._group = self.space.groups[0] if isinstance(self.space, Container) else None
        if self._group is not None:
            stack.callback(self._group.close)
        self.memory.populate(0, self.memory.size)

    @property
    def group(self) -> Group:
        group = self._group
        assert group is not None
        return group

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


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError], ids=lambda error: error.__name__)
@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
@pytest.mark.parametrize(("name", "way"), [(name, way) for name, each in OPERATIONS.items() for way in each.only])
def test_an_exception_at_any_system_call(
    name: str, way: str, kind: MemoryKind, is_made: bool, error: type[BaseException]
) -> None:
    """TimeoutError is what handlers of SIGALRM like to raise; it is an OSError, and not the kernel's."""
    operation = OPERATIONS[name]
    for nth in range(1000):
        with a_world(way, kind) as world:
            operation.prepare(world)
            world.kernel.arm(Interrupt(nth, is_made=is_made, error=error))
            try:
                operation.act(world)
            except (error, VfioError):
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


# Descriptors of what can be open only once.


@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_being_opened_can_be_opened_again(way: str, is_made: bool) -> None:
    """Nothing keeps the group or the device busy, and no descriptor is left over but the one whose closing it met."""
    for nth in range(1000):
        with a_world(way) as world:
            before = len(os.listdir("/proc/self/fd"))
            world.kernel.arm(Interrupt(nth, is_made=is_made))
            try:
                world.space.open_device(world.second)
            except KeyboardInterrupt:
                world.kernel.arm()
            else:
                assert nth > 0
                break
            assert len(os.listdir("/proc/self/fd")) <= before + (not is_made)
            world.space.open_device(world.second).close()
            world.space.close()
            group = pci_device(world.simulated, world.second).group
            assert group is not None
            Group(group, kernel=world.kernel).close()


class BetweenOpeningAndKeeping:
    """Raises KeyboardInterrupt at the first line of a function that follows the opening of a group."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._code, self._is_due = function.__code__, False

    def __enter__(self) -> None:
        sys.settrace(self._step)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "return" and frame.f_code is Group.__init__.__code__:
            self._is_due = True
        if frame.f_code is self._code:
            frame.f_trace_opcodes = True
            if event == "opcode" and self._is_due:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_group_that_ctrl_c_keeps_from_getting_a_name_is_closed() -> None:
    kernel = SimKernel(edu_devices=1)
    number = pci_device(kernel, edu_addresses(kernel)[0]).group
    assert number is not None
    with Container(kernel=kernel) as container:
        with pytest.raises(KeyboardInterrupt), BetweenOpeningAndKeeping(Container.open_group):
            container.open_group(number)
        assert container.groups == ()
        container.open_group(number)


# Groups and devices come and go.


def leave(world: World) -> None:
    """The only device goes; a group stays open."""
    if isinstance(world.space, Ioas):
        world.space.devices[0].detach()
    else:
        world.space.detach(world.group)


def come(world: World) -> None:
    if isinstance(world.space, Ioas):
        (device,) = [child for child in world.devices if isinstance(child, CdevDevice)]
        device.attach(world.space)
    else:
        world.space.attach(world.group)


def replay(world: World) -> None:
    """As a listener that comes late does."""
    for block in range(BLOCKS):
        world.space.map_dma(IOVA + block * BLOCK, world.memory, block * BLOCK, BLOCK, granularity=BLOCK)


@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["container", "iommufd"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "comes"])
def test_a_device_that_leaves_or_comes(leaves: bool, way: str, is_made: bool) -> None:
    for nth in range(1000):
        with a_world(way) as world:
            if isinstance(world.space, Container):
                world.devices[0].close()
            world.map()
            if not leaves:
                leave(world)
            world.kernel.arm(Interrupt(nth, is_made=is_made))
            try:
                (leave if leaves else come)(world)
            except KeyboardInterrupt:
                world.kernel.arm()
            else:
                assert nth > 0
                break
            world.expect_safe()
            # Whatever it came to, both can be asked for again.
            if isinstance(world.space, Ioas):
                for device in world.space.devices:
                    device.detach()
            elif world.group in world.space.groups:
                world.space.detach(world.group)
            world.expect_safe()
            come(world)
            world.expect_safe()
            world.clean_up()
            world.expect_nothing()
            replay(world)
            world.unmap()
            world.expect_nothing()


# Every bytecode.

BYTECODES = ("map", "map anywhere", "copy", "unmap", "unmap everything")
BYTECODE_CASES = [(name, way) for name in BYTECODES for way in OPERATIONS[name].only if way != "compat"]


# Where a generator is being closed, Python drops what is raised, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "way"), BYTECODE_CASES)
def test_an_exception_at_any_bytecode(name: str, way: str) -> None:
    operation = OPERATIONS[name]
    with a_world(way) as world:
        for nth in range(0, 100_000, stride(7)):
            operation.prepare(world)
            opcode = AtOpcode(nth, LIBRARY)
            with suppress(KeyboardInterrupt), opcode:
                operation.act(world)
            world.expect_safe()
            world.clean_up()
            world.expect_nothing()
            if opcode.left >= 0:
                break
        assert nth > 50


@pytest.mark.parametrize("way", ["container", "iommufd"])
def test_what_is_left_in_doubt_does_not_grow_with_each_exception(way: str) -> None:
    """The hundredth unmapping takes as many bytecodes as the second."""
    took = []
    with a_world(way) as world:
        for _ in range(100):
            world.map()
            world.kernel.arm(Interrupt(0, is_made=False))
            counted = AtOpcode(100_000, LIBRARY)
            with suppress(KeyboardInterrupt), counted:
                world.space.unmap_everything()
            world.kernel.arm()
            world.clean_up()
            took.append(100_000 - counted.left)
    assert took[-1] == took[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["container", "iommufd"])
def test_a_second_exception_at_any_bytecode_of_the_way_back(way: str, is_made: bool) -> None:
    """The first one comes at the second of three blocks."""
    with a_world(way) as world:
        world.map()
        world.unmap()
        for nth in range(0, 100_000, stride(29)):
            world.kernel.arm(Interrupt(1, is_made=is_made))
            opcode = AtOpcode(nth, LIBRARY)
            with pytest.raises(KeyboardInterrupt), opcode:
                world.map()
            world.kernel.arm()
            world.expect_safe()
            world.clean_up()
            world.expect_nothing()
            if opcode.left >= 0:
                break


# Other threads.


@pytest.mark.parametrize("way", WAYS)
def test_what_another_thread_is_mapping_is_neither_discarded_nor_freed(way: str) -> None:
    with a_world(way) as world:
        request = IOMMU_IOAS_MAP if way == "iommufd" else VFIO_IOMMU_MAP_DMA
        hold = Hold(0, request=request)
        world.kernel.arm(hold)
        mapping = threading.Thread(target=world.map)
        mapping.start()
        try:
            assert hold.reached.wait(10)
            with pytest.raises(StillMapped):
                world.memory.discard(SIZE - BLOCK, BLOCK)
            world.memory.discard(SIZE, BLOCK)
            world.memory.close()
            assert world.memory.address
        finally:
            hold.released.set()
            mapping.join(10)
        expect_known(world.simulated, world.space, world.memory)
        assert world.space.mapping_count == BLOCKS
        world.unmap()
        assert not world.memory.address


@pytest.mark.parametrize("way", WAYS)
def test_mapping_waits_for_who_discards_the_memory(way: str) -> None:
    with a_world(way) as world:
        hold = Hold(0, name="madvise")
        world.kernel.arm(hold)
        discarding = threading.Thread(target=world.memory.discard, args=(0, SIZE))
        discarding.start()
        mapping = threading.Thread(target=world.map)
        try:
            assert hold.reached.wait(10)
            mapping.start()
            mapping.join(0.2)
            assert mapping.is_alive()
            assert held_by(world.simulated, world.space, world.memory) == []
        finally:
            hold.released.set()
            discarding.join(10)
            mapping.join(10)
        assert world.space.mapping_count == BLOCKS
        world.unmap()


@pytest.mark.parametrize("way", WAYS)
def test_asking_what_is_mapped_waits_for_no_call_that_maps(way: str) -> None:
    with a_world(way) as world:
        world.map()
        (run,) = world.space.mappings()
        request = IOMMU_IOAS_UNMAP if way == "iommufd" else VFIO_IOMMU_UNMAP_DMA
        hold = Hold(0, request=request)
        world.kernel.arm(hold)
        answers: list[object] = []

        def ask() -> None:
            space = world.space
            answers.append(space.mappings())
            answers.append((*space.mappings_in(IOVA, SIZE), space.mapping_cut_by(IOVA, SIZE)))
            answers.append(space.mapping_count)
            answers.append(space.unconfirmed())
            if isinstance(space, Container):
                answers.append(space.mappings_left)

        unmapping, asking = threading.Thread(target=world.unmap), threading.Thread(target=ask)
        unmapping.start()
        try:
            assert hold.reached.wait(10)
            asking.start()
            asking.join(10)
            assert answers[:4] == [(run,), (run, None), BLOCKS, (run,)]
            assert len(answers) == (5 if isinstance(world.space, Container) else 4)
        finally:
            hold.released.set()
            unmapping.join(10)
        assert world.space.mappings() == ()


@pytest.mark.parametrize("way", WAYS)
def test_discarding_waits_for_no_address_space(way: str) -> None:
    """Other memory is being mapped for long meanwhile; some of this one is mapped there too."""
    with a_world(way) as world, Memory.allocate(MemoryKind.ANONYMOUS, BLOCK, kernel=world.kernel) as other:
        other.populate(0, BLOCK)
        world.map()
        request = IOMMU_IOAS_MAP if way == "iommufd" else VFIO_IOMMU_MAP_DMA
        hold = Hold(0, request=request)
        world.kernel.arm(hold)
        mapping = threading.Thread(target=world.space.map_dma, args=(IOVA + 2 * SIZE, other, 0, BLOCK))
        mapping.start()
        try:
            assert hold.reached.wait(10)
            world.memory.discard(SIZE, SIZE)
            with pytest.raises(StillMapped):
                world.memory.discard(0, SIZE)
        finally:
            hold.released.set()
            mapping.join(10)
        world.space.unmap_all()
