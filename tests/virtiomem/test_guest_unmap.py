"""How a guest's mappings come off: as many as a range covers, with as few calls as address spaces allow, and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from pyvfio import Container, Ioas, Memory, MemoryKind
from pyvfio.abi import iommufd, vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.errors import VfioError
from pyvfio.faults import Call, Fault, FaultyKernel, ShortUnmap
from pyvfio.faults.rules import UNMAPS, Rule
from pyvfio.kernel import Kernel
from pyvfio.sim import SimKernel
from tests.support.operations import lines_run
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.iommu import World, expected_of
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import Section
from virtiomem.mapping import GuestIommu, GuestMappingRefused, Refusal

ACK, NACK, BUSY, ERROR = ResponseType
PAGE = 4096
FEW, MANY = 100, 400
LINEAR = 1.5 * MANY / FEW
FLAT = 1.5


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# virtio 1.3, 5.13.6.6: the examples of the section, an address of theirs being a page of ours.
@pytest.mark.parametrize(
    ("mapped", "first", "last", "left"),
    [
        ([], 0, 4, []),
        ([(0, 9)], 0, 9, []),
        ([(0, 4), (5, 9)], 0, 9, []),
        ([(0, 9)], 0, 4, None),
        ([(0, 4), (5, 9)], 0, 4, [(5, 9)]),
        ([(0, 4)], 0, 9, []),
        ([(0, 4), (10, 14)], 0, 14, []),
    ],
)
def test_an_unmap_is_answered_as_virtio_says(
    stack: ExitStack,
    mapped: list[tuple[int, int]],
    first: int,
    last: int,
    left: list[tuple[int, int]] | None,
) -> None:
    world = World(stack)
    for start, end in mapped:
        world.map(start * PAGE, 0, (end + 1 - start) * PAGE)
    if left is None:
        assert world.refused(lambda: world.domain.unmap(first * PAGE, (last + 1 - first) * PAGE)) is Refusal.SPLIT
        left = mapped
    else:
        world.domain.unmap(first * PAGE, (last + 1 - first) * PAGE)
    assert [(each.iova // PAGE, each.end // PAGE - 1) for each in world.domain.mappings] == left
    assert world.spaces[0].held() == world.spaces[1].held() == world.domain.mappings


def test_an_unmap_of_many_mappings_is_one_call_of_each_address_space(stack: ExitStack) -> None:
    world = World(stack, max_mappings=512, boot_blocks=1)
    for number in range(256):
        # With holes, in memory of any order, and in two memories.
        world.domain.map(number * 2 * PAGE, ADDRESS + (number * 7 % 256 - 8) * PAGE, PAGE)
    world.map(1 << 40, 0, PAGE)
    world.faults.arm()
    assert world.domain.unmap(0, 1 << 40) == 256 * PAGE
    assert world.faults.steps == ["address space 1.unmap", "address space 0.unmap"]
    assert [mapping.iova for mapping in world.domain.mappings] == [1 << 40]
    for number in range(16):
        world.map(number * PAGE, 0, PAGE)
    world.faults.arm()
    world.domain.leave(world.spaces[0])
    assert world.faults.steps == ["address space 0.unmap"]
    world.faults.arm()
    world.iommu.close()
    assert world.faults.steps == ["address space 1.unmap"]


def test_a_revocation_is_one_call_for_neighbours(stack: ExitStack) -> None:
    world = World(stack, spaces=1)
    for number in range(16):
        world.map(number * PAGE, BLOCK if 4 <= number < 8 or number in (10, 15) else 0, PAGE)
    world.faults.arm()
    assert world.unplug(1) is ACK
    assert world.spaces[0].unmaps() == 3
    assert world.spaces[0].mappings() == expected_of(world.domain)
    assert len(world.domain.mappings) == 10


def test_what_others_have_mapped_between_stays(stack: ExitStack) -> None:
    world = World(stack, spaces=1)
    (space,) = world.spaces
    for number in (0, 1, 4, 5):
        world.map(number * PAGE, number * PAGE, PAGE)
    space.map_dma(2 * PAGE, world.memory, 0, PAGE)
    world.faults.arm()
    assert world.domain.unmap(0, 6 * PAGE) == 4 * PAGE
    assert [run.iova for run in space.mappings()] == [2 * PAGE]
    assert space.unmaps() == 2
    space.unmap_dma(2 * PAGE, PAGE)


def test_nothing_is_unmapped_over_a_hole_where_another_guests_iommu_may_map_at_that_moment(stack: ExitStack) -> None:
    world = World(stack, spaces=1)
    (space,) = world.spaces
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCK))
    device = stack.enter_context(VirtioMem(memory, address=0, block_size=BLOCK, requested_size=BLOCK))
    iommu = stack.enter_context(GuestIommu(device.discards, device.section, max_bytes=BLOCK, max_mappings=8))
    other = iommu.open_domain()
    other.join(space)
    for number in (0, 1, 4, 5):
        world.map(number * PAGE, number * PAGE, PAGE)
    world.faults.arm()
    world.domain.unmap(0, 6 * PAGE)
    assert space.unmaps() == 2
    other.leave(space)
    for number in (0, 1, 4, 5):
        world.map(number * PAGE, number * PAGE, PAGE)
    world.faults.arm()
    world.domain.unmap(0, 6 * PAGE)
    assert space.unmaps() == 1


def test_the_first_and_the_last_page_of_all_addresses_come_off_together(stack: ExitStack) -> None:
    """No call takes 2^64 bytes: a size of 64 bits would be 0."""
    world = World(stack, spaces=1)
    world.map(0, 0, PAGE)
    world.map((1 << 64) - PAGE, PAGE, PAGE)
    world.faults.arm()
    assert world.domain.unmap(0, 1 << 64) == 2 * PAGE
    assert world.spaces[0].unmaps() == 2
    assert world.spaces[0].mappings() == ()


# Growth: counted in lines of Python and in calls, never in seconds.


def filled(stack: ExitStack, count: int, *, spaces: int = 2) -> World:
    world = World(stack, spaces=spaces, max_mappings=count + 8, max_bytes=1 << 40)
    for number in range(count):
        world.map(number * 2 * PAGE, number % 1024 * PAGE, PAGE)
    return world


def unmap_all(world: World) -> None:
    world.domain.unmap(0, 1 << 40)
    assert world.faults.steps[-2:] == ["address space 1.unmap", "address space 0.unmap"]


def unmap_four(world: World) -> None:
    assert world.domain.unmap(20 * PAGE, 8 * PAGE) == 4 * PAGE


def map_one(world: World) -> None:
    world.map(1 << 40, 0, PAGE)


def unmap_nothing(world: World) -> None:
    assert world.domain.unmap(1 << 40, PAGE) == 0


def unplug_what_nobody_maps(world: World) -> None:
    assert world.unplug(3) is ACK


COSTS: dict[str, tuple[Callable[[World], None], float]] = {
    "an unmap of all": (unmap_all, LINEAR),
    "an unmap of four among many": (unmap_four, FLAT),
    "an unmap of nothing": (unmap_nothing, FLAT),
    "a map beside many": (map_one, FLAT),
    "an unplug of what nobody has mapped": (unplug_what_nobody_maps, FLAT),
    "closing a domain": (lambda world: world.domain.close(), LINEAR),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_call_costs_what_it_touches_and_not_what_there_is(name: str) -> None:
    cost, limit = COSTS[name]
    lines = []
    for count in (FEW, MANY):
        with ExitStack() as stack:
            world = filled(stack, count)
            lines.append(lines_run(lambda world=world: cost(world)))  # type: ignore[misc]
    assert lines[1] / lines[0] < limit, lines


def test_a_large_mapping_costs_what_a_small_one_costs(stack: ExitStack) -> None:
    blocks = 4096
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, blocks * BLOCK))
    device = stack.enter_context(
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False)
    )
    assert not any(device.handle(bytes(Request(RequestType.PLUG, ADDRESS, blocks))))
    iommu = stack.enter_context(GuestIommu(device.discards, device.section, max_bytes=1 << 50, max_mappings=8))
    domain = iommu.open_domain()
    small = lines_run(lambda: domain.map(0, ADDRESS, PAGE))
    assert lines_run(lambda: domain.map(1 << 40, ADDRESS, memory.size)) < FLAT * small
    assert not any(device.handle(bytes(Request(RequestType.UNPLUG, ADDRESS + 17 * BLOCK, 1))))
    assert [mapping.iova for mapping in domain.mappings] == [0]


# Every call of the kernel's fails in turn.


class Machine:
    """Boot RAM and a region in two domains, with two address spaces of one kind in the first, and one in the second."""

    def __init__(self, stack: ExitStack, way: str) -> None:
        self.kernel = FaultyKernel(SimKernel(edu_devices=4))
        self.spaces = [OPEN[way](self.kernel) for _ in range(4)]
        for space, address in zip(self.spaces, edu_addresses(self.kernel), strict=True):
            stack.callback(space.close)
            space.open_device(address)
        self.memory, boot = (
            stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 8 * BLOCK, kernel=self.kernel)) for _ in range(2)
        )
        self.device = stack.enter_context(
            VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=8 * BLOCK)
        )
        self.iommu = stack.enter_context(
            GuestIommu(
                self.device.discards,
                self.device.section,
                Section(boot, 0, ADDRESS - boot.size, boot.size),
                max_bytes=1 << 40,
                max_mappings=64,
            )
        )
        stack.callback(self.kernel.arm)
        self.first, self.second = self.iommu.open_domain(), self.iommu.open_domain()
        self.first.join(self.spaces[0])
        self.first.join(self.spaces[1])
        self.second.join(self.spaces[2])
        self.fill()

    def fill(self) -> None:
        assert self.ask(RequestType.PLUG, 0, 4) is ACK
        for iova, offset, size in ((0, -PAGE, 2 * PAGE), (4 * PAGE, BLOCK, PAGE), (6 * PAGE, -2 * PAGE, PAGE)):
            self.first.map(iova, ADDRESS + offset, size)
        self.second.map(0, ADDRESS + BLOCK - PAGE, 2 * PAGE)

    def empty(self) -> None:
        for domain in (self.first, self.second):
            domain.unmap(0, 1 << 40)
        self.ask(RequestType.UNPLUG_ALL)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def state(self) -> object:
        return [
            (domain.mappings, domain.spaces, [space.mappings() for space in domain.spaces])
            for domain in (self.first, self.second)
        ] + [self.device.config, self.iommu.divergences, self.device.discards.divergences]

    def expect_in_step(self) -> None:
        for domain in (self.first, self.second):
            for space in domain.spaces:
                assert space.mappings() == expected_of(domain)
                assert space.unconfirmed() == ()
        assert self.iommu.divergences == self.device.discards.divergences == ()


OPEN: dict[str, Callable[[Kernel], Container | Ioas]] = {
    "container": lambda kernel: Container(kernel=kernel),
    "iommufd": lambda kernel: Ioas(kernel=kernel),
}
OPERATIONS: dict[str, tuple[Callable[[Machine], object], Callable[[Machine], object]]] = {
    "map": (
        lambda machine: machine.first.map(1 << 20, ADDRESS - PAGE, 2 * PAGE),
        lambda machine: machine.first.unmap(1 << 20, 2 * PAGE),
    ),
    "unmap": (lambda machine: machine.first.unmap(0, 1 << 20) and None, lambda machine: refill(machine)),
    "unplug": (lambda machine: machine.ask(RequestType.UNPLUG, 1, 1), lambda machine: refill(machine)),
    "join": (
        lambda machine: machine.first.join(machine.spaces[3]),
        lambda machine: machine.first.leave(machine.spaces[3]),
    ),
    "leave": (
        lambda machine: machine.first.leave(machine.spaces[1]),
        lambda machine: machine.first.join(machine.spaces[1]),
    ),
}
CODES = {UNMAPS[0]: (5, 12), UNMAPS[1]: (16, 35), vfio.VFIO_IOMMU_MAP_DMA: (12, 17, 28), iommufd.IOMMU_IOAS_MAP: (12,)}
"""Errnos: EIO, ENOMEM, EBUSY, EDEADLK, EEXIST, ENOSPC."""


def refill(machine: Machine) -> None:
    machine.empty()
    machine.fill()


def succeeds(machine: Machine, act: Callable[[Machine], object]) -> bool:
    try:
        return act(machine) in (ACK, None)
    except VfioError:
        return False


@pytest.mark.parametrize("way", OPEN)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_that_fails_changes_nothing_in_any_domain(way: str, name: str, stack: ExitStack) -> None:
    act, undo = OPERATIONS[name]
    machine = Machine(stack, way)
    machine.kernel.arm()
    assert succeeds(machine, act)
    calls: list[Call] = list(machine.kernel.calls)
    undo(machine)
    before = machine.state()
    tried = 0
    for nth, call in enumerate(calls):
        rules: list[Rule] = [Fault(nth, errno=code) for code in CODES.get(call.request or 0, (12,))]
        if call.request in UNMAPS:
            number = sum(earlier.request in UNMAPS for earlier in calls[:nth])
            rules += [ShortUnmap(number, size=size) for size in (0, PAGE, 2 * PAGE)]
        for rule in rules:
            machine.kernel.arm(rule)
            if succeeds(machine, act):
                # Nothing but an unmap of less than it had to unmap, of which nothing was left to do.
                assert isinstance(rule, ShortUnmap)
                undo(machine)
                continue
            machine.kernel.arm()
            assert machine.state() == before, rule
            assert succeeds(machine, act), rule
            machine.expect_in_step()
            undo(machine)
            tried += 1
            assert machine.state() == before
    assert tried >= 2
    with suppress(GuestMappingRefused):
        machine.first.unmap(PAGE, PAGE)


@pytest.mark.parametrize("way", OPEN)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_call_that_fails_on_the_way_back_is_told_and_repaired(way: str, name: str, stack: ExitStack) -> None:
    act, undo = OPERATIONS[name]
    machine = Machine(stack, way)
    machine.kernel.arm()
    assert succeeds(machine, act)
    count = len(machine.kernel.calls)
    undo(machine)
    before = machine.state()
    for first in range(count):
        for second in range(first + 1, first + 8):
            machine.kernel.arm(Fault(first, errno=12), Fault(second, errno=22))
            succeeds(machine, act)
            machine.kernel.arm()
            if machine.state() != before and machine.iommu.divergences:
                machine.iommu.repair()
            for space in machine.spaces[3:]:
                if name == "join" and space in machine.first.spaces:
                    machine.first.leave(space)
            if name == "map":
                machine.first.unmap(1 << 20, 2 * PAGE)
            assert machine.state() == before, (first, second)
            machine.expect_in_step()
    assert succeeds(machine, act)
