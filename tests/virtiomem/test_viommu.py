"""GuestIommu: what a guest's IOMMU maps of memory that comes and goes."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvfio.dma import Access
from pyvfio.errors import InvalidArgument, ShortUnmap, VfioError
from pyvfio.memory import Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeMemory, Faults, failure
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import (
    DiscardCoordination,
    DiscardRefused,
    DiscardUse,
    ListenerDiverged,
    RamDiscardManager,
    Section,
)
from virtiomem.mapping import GuestIommu, GuestMapping, GuestMappingRefused, Refusal
from virtiomem.trace import DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
PAGE = 4096
BLOCKS = 16
READ_WRITE = Access.READ_WRITE


class FaultySpace(RecordingAddressSpace):
    """Each map and unmap is a step that may fail; an unmap that fails may have unmapped nevertheless (short)."""

    def __init__(self, number: int, faults: Faults, *, short: bool = False) -> None:
        super().__init__(number, DmaLog())
        self.faults = faults
        self.short = short

    def map_dma(self, iova: int, memory: Memory, *arguments: Any, **options: Any) -> None:
        if self.faults.step(f"{self.name}.map"):
            raise failure("map_dma")
        super().map_dma(iova, memory, *arguments, **options)

    def unmap_dma(self, iova: int, size: int) -> int:
        fails = self.faults.step(f"{self.name}.unmap")
        if fails and not self.short:
            raise failure("unmap_dma")
        unmapped = super().unmap_dma(iova, size)
        if fails:
            raise ShortUnmap(errno.EIO, "unmap_dma", meaning="injected")
        return unmapped

    def held(self) -> tuple[GuestMapping, ...]:
        return tuple(GuestMapping(run.iova, run.offset, run.size, run.access) for run in self.mappings())


class World:
    """A device of 16 blocks, blocks 0 to 3 plugged, with a guest IOMMU that address spaces have joined."""

    def __init__(self, stack: ExitStack, spaces: int = 2, *, short: bool = False, **limits: Any) -> None:
        self.faults = Faults()
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK))
        self.coordination = DiscardCoordination()
        self.device = stack.enter_context(
            VirtioMem(
                self.memory,
                address=ADDRESS,
                block_size=BLOCK,
                requested_size=BLOCKS * BLOCK,
                prealloc=False,
                coordination=self.coordination,
            )
        )
        self.gone: list[GuestMapping] = []
        self.iommu = stack.enter_context(
            GuestIommu(
                self.device.discards,
                self.device.section,
                coordination=self.coordination,
                revoked=self.gone.extend,
                **{"max_bytes": BLOCKS * BLOCK, "max_mappings": 64, **limits},
            )
        )
        self.spaces = [FaultySpace(number, self.faults, short=short) for number in range(spaces)]
        for space in self.spaces:
            self.iommu.join(space)
        stack.callback(self.faults.disarm)
        assert self.ask(RequestType.PLUG, 0, 4) is ACK
        self.faults.disarm()

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def unplug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.UNPLUG, block, count)

    def refused(self, act: Callable[[], object]) -> Refusal:
        with pytest.raises(GuestMappingRefused) as caught:
            act()
        return caught.value.reason


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_mapping_is_one_mapping_in_every_address_space(stack: ExitStack) -> None:
    world = World(stack)
    world.iommu.map(0, BLOCK + PAGE, 2 * BLOCK)
    world.iommu.map(1 << 40, 0, PAGE, Access.READ)
    expected = (
        GuestMapping(0, BLOCK + PAGE, 2 * BLOCK, READ_WRITE),
        GuestMapping(1 << 40, 0, PAGE, Access.READ),
    )
    assert world.iommu.mappings == expected
    assert [space.held() for space in world.spaces] == [expected, expected]
    assert world.iommu.mapped_bytes == 2 * BLOCK + PAGE
    assert world.iommu.unmap(0, 1 << 41) == 2 * BLOCK + PAGE
    assert [space.held() for space in world.spaces] == [(), ()]
    assert world.iommu.unmap(0, PAGE) == 0


@pytest.mark.parametrize(
    ("iova", "offset", "size", "access", "reason"),
    [
        (0, 4 * BLOCK, PAGE, READ_WRITE, Refusal.DISCARDED),
        (0, 4 * BLOCK - PAGE, 2 * PAGE, READ_WRITE, Refusal.DISCARDED),
        (0, 0, BLOCKS * BLOCK, READ_WRITE, Refusal.DISCARDED),
        (0, 1, PAGE, READ_WRITE, Refusal.INVALID),
        (1, 0, PAGE, READ_WRITE, Refusal.INVALID),
        (0, 0, PAGE + 1, READ_WRITE, Refusal.INVALID),
        (0, 0, 0, READ_WRITE, Refusal.INVALID),
        (0, 0, -PAGE, READ_WRITE, Refusal.INVALID),
        (-PAGE, 0, PAGE, READ_WRITE, Refusal.INVALID),
        ((1 << 64) - PAGE, 0, 2 * PAGE, READ_WRITE, Refusal.INVALID),
        (0, -PAGE, PAGE, READ_WRITE, Refusal.INVALID),
        (0, BLOCKS * BLOCK, PAGE, READ_WRITE, Refusal.INVALID),
        (0, 0, PAGE, Access(0), Refusal.INVALID),
        (1 << 30, 0, PAGE, READ_WRITE, Refusal.OVERLAP),
        ((1 << 30) - PAGE, 0, 2 * PAGE, READ_WRITE, Refusal.OVERLAP),
        ((1 << 30) + BLOCK - PAGE, 0, PAGE, READ_WRITE, Refusal.OVERLAP),
    ],
)
def test_what_a_guest_may_not_map(
    stack: ExitStack, iova: int, offset: int, size: int, access: Access, reason: Refusal
) -> None:
    world = World(stack)
    world.iommu.map(1 << 30, 0, BLOCK)
    before = world.iommu.mappings
    assert world.refused(lambda: world.iommu.map(iova, offset, size, access)) is reason
    assert world.iommu.mappings == world.spaces[0].held() == before
    assert world.iommu.refusals == {reason: 1}


def test_an_unmap_never_cuts_a_mapping(stack: ExitStack) -> None:
    world = World(stack)
    world.iommu.map(BLOCK, 0, BLOCK)
    for iova, size in ((BLOCK, PAGE), (0, BLOCK + PAGE), (2 * BLOCK - PAGE, BLOCK)):
        assert world.refused(lambda iova=iova, size=size: world.iommu.unmap(iova, size)) is Refusal.SPLIT  # type: ignore[misc]
    for iova, size in ((0, 0), (-1, PAGE), (0, (1 << 64) + 1)):
        assert world.refused(lambda iova=iova, size=size: world.iommu.unmap(iova, size)) is Refusal.INVALID  # type: ignore[misc]
    assert len(world.iommu.mappings) == 1


def test_a_page_that_is_mapped_twice_counts_twice(stack: ExitStack) -> None:
    world = World(stack, max_bytes=3 * PAGE)
    world.iommu.map(0, 0, 2 * PAGE)
    assert world.refused(lambda: world.iommu.map(BLOCK, 0, 2 * PAGE)) is Refusal.TOO_MANY_BYTES
    world.iommu.map(BLOCK, 0, PAGE)
    assert world.refused(lambda: world.iommu.map(2 * BLOCK, 0, PAGE)) is Refusal.TOO_MANY_BYTES
    world.iommu.unmap(0, 2 * PAGE)
    world.iommu.map(2 * BLOCK, 0, PAGE)


def test_mappings_are_counted(stack: ExitStack) -> None:
    world = World(stack, max_mappings=2)
    world.iommu.map(0, 0, PAGE)
    world.iommu.map(PAGE, 0, PAGE)
    assert world.refused(lambda: world.iommu.map(2 * PAGE, 0, PAGE)) is Refusal.TOO_MANY_MAPPINGS
    world.unplug(0)
    world.ask(RequestType.PLUG, 0, 1)
    world.iommu.map(2 * PAGE, 0, PAGE)


def test_a_region_that_devices_may_only_read(stack: ExitStack) -> None:
    world = World(stack)
    section = Section(world.memory, 0, ADDRESS, BLOCK, readonly=True)
    iommu = stack.enter_context(GuestIommu(world.device.discards, section, max_bytes=BLOCK, max_mappings=1))
    assert world.refused(lambda: iommu.map(0, 0, PAGE)) is Refusal.READONLY
    iommu.map(0, 0, PAGE, Access.READ)


def test_mappings_are_revoked_with_their_block_and_do_not_come_back_with_it(stack: ExitStack) -> None:
    world = World(stack)
    world.iommu.map(0, 0, PAGE)
    world.iommu.map(BLOCK, BLOCK, 2 * BLOCK)
    world.iommu.map(8 * BLOCK, 3 * BLOCK, PAGE)
    first, spanning, last = world.iommu.mappings
    assert world.unplug(2) is ACK
    assert world.gone == [spanning]
    assert world.iommu.mappings == world.spaces[0].held() == world.spaces[1].held() == (first, last)
    assert world.ask(RequestType.PLUG, 2, 1) is ACK
    assert world.iommu.mappings == world.spaces[0].held() == (first, last)
    assert world.ask(RequestType.UNPLUG_ALL) is ACK
    assert world.gone == [spanning, first, last]
    assert world.iommu.mapped_bytes == 0


def test_who_joins_gets_all_mappings_and_who_leaves_none(stack: ExitStack) -> None:
    world = World(stack, spaces=0)
    world.iommu.map(0, 0, PAGE)
    world.iommu.map(BLOCK, PAGE, BLOCK)
    late = FaultySpace(9, world.faults)
    world.iommu.join(late)
    assert late.held() == world.iommu.mappings
    with pytest.raises(InvalidArgument, match="it has already"):
        world.iommu.join(late)
    world.iommu.leave(late)
    assert late.held() == ()
    assert len(world.iommu.mappings) == 2
    with pytest.raises(InvalidArgument, match="it never joined"):
        world.iommu.leave(late)


OPERATIONS: dict[str, Callable[[World, FaultySpace], object]] = {
    "map": lambda world, _: world.iommu.map(16 * BLOCK, 0, BLOCK),
    "unmap": lambda world, _: world.iommu.unmap(0, 8 * BLOCK),
    "unplug": lambda world, _: world.unplug(1, 2),
    "join": lambda world, newcomer: world.iommu.join(newcomer),
    "leave": lambda world, _: world.iommu.leave(world.spaces[0]),
    "close": lambda world, _: world.iommu.close(),
}


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_failure_changes_nothing_and_the_next_try_succeeds(name: str, short: bool) -> None:
    operation, step, steps = OPERATIONS[name], 0, 1
    while step < steps:
        with ExitStack() as stack:
            world = World(stack, short=short)
            world.iommu.map(0, 0, PAGE)
            world.iommu.map(BLOCK, BLOCK + PAGE, BLOCK)
            world.iommu.map(2 * BLOCK, 2 * BLOCK, BLOCK)
            newcomer = FaultySpace(7, world.faults, short=short)
            before = world.iommu.mappings
            world.faults.arm(step)
            with suppress(VfioError):
                assert operation(world, newcomer) is BUSY
            assert world.iommu.mappings == world.spaces[0].held() == world.spaces[1].held() == before
            assert newcomer.held() == ()
            assert world.gone == []
            assert world.device.discards.divergences == ()
            world.faults.disarm()
            assert operation(world, newcomer) in (ACK, None, PAGE + 2 * BLOCK)
            step, steps = step + 1, len(world.faults.steps)
            if newcomer.held():
                world.iommu.leave(newcomer)


def test_a_mapping_that_cannot_be_restored_is_reported_and_repaired(stack: ExitStack) -> None:
    world = World(stack, short=True)
    world.iommu.map(0, 0, 2 * BLOCK)
    (mapping,) = world.iommu.mappings
    world.faults.arm(every_from=0)
    assert world.unplug(1) is BUSY
    (divergence,) = world.device.discards.divergences
    assert (divergence.listener, divergence.stale) == ("guest IOMMU", False)
    assert world.iommu.mappings == (mapping,)
    world.faults.disarm()
    assert world.ask(RequestType.PLUG, 8, 1) is ACK
    assert world.device.discards.divergences == ()
    assert world.spaces[0].held() == world.spaces[1].held() == (mapping,)


def test_what_one_address_space_lost_is_still_taken_from_the_others(stack: ExitStack) -> None:
    world = World(stack, short=True)
    world.iommu.map(0, 0, 2 * BLOCK)
    world.faults.fails = lambda step: world.faults.steps[step].startswith("address space 1")
    assert world.unplug(1) is BUSY
    assert (len(world.spaces[0].held()), world.spaces[1].held()) == (1, ())
    assert world.unplug(1) is ACK
    assert world.spaces[0].held() == world.iommu.mappings == ()
    assert world.device.discards.divergences == ()


def test_a_map_that_stays_in_one_address_space_stays_the_guests(stack: ExitStack) -> None:
    world = World(stack)
    world.faults.arm(every_from=1)
    with pytest.raises(GuestMappingRefused, match="still mapped in some address space") as caught:
        world.iommu.map(0, 0, PAGE)
    assert caught.value.reason is Refusal.HOST
    assert world.iommu.mappings == world.spaces[0].held() != ()
    assert world.spaces[1].held() == ()
    world.faults.disarm()
    assert world.unplug(0) is ACK
    assert world.spaces[0].held() == ()


def test_an_address_space_that_cannot_be_rid_of_what_it_has_stays_in(stack: ExitStack) -> None:
    world = World(stack, spaces=0)
    world.iommu.map(0, 0, PAGE)
    world.iommu.map(BLOCK, PAGE, PAGE)
    stuck = FaultySpace(3, world.faults)
    world.faults.arm(every_from=1)
    with pytest.raises(ListenerDiverged, match="Let it leave"):
        world.iommu.join(stuck)
    world.faults.disarm()
    world.iommu.leave(stuck)
    assert stuck.held() == ()


def test_closing_takes_everything_back_and_lets_a_balloon_in(stack: ExitStack) -> None:
    world = World(stack)
    world.iommu.map(0, 0, PAGE)
    with pytest.raises(DiscardRefused, match="guest IOMMU"):
        world.coordination.hold(DiscardUse.REQUIRE, "balloon")
    world.iommu.close()
    world.iommu.close()
    assert world.spaces[0].held() == ()
    assert world.unplug(0) is ACK
    world.device.close()
    world.coordination.hold(DiscardUse.REQUIRE, "balloon").release()


def test_a_closed_address_space_took_its_mappings_with_it(stack: ExitStack) -> None:
    world = World(stack)
    world.iommu.map(0, 0, PAGE)
    world.spaces[0].unmap_all()
    assert world.unplug(0) is ACK


def test_only_memory_that_can_be_mapped() -> None:
    memory, coordination = FakeMemory(), DiscardCoordination()
    section = Section(memory, 0, ADDRESS, memory.size)
    with pytest.raises(InvalidArgument, match="only a pyvfio"):
        GuestIommu(RamDiscardManager(memory), section, max_bytes=1, max_mappings=1, coordination=coordination)
    assert not coordination.disabled


def test_a_blocks_mappings_are_found_among_many(stack: ExitStack) -> None:
    world = World(stack, spaces=1, max_mappings=4096)
    pages = [(block * BLOCK + page * PAGE) for block in range(4) for page in range(512)]
    random.Random(1).shuffle(pages)
    for number, offset in enumerate(pages):
        world.iommu.map(number * 2 * PAGE, offset, PAGE)
    assert world.unplug(2) is ACK
    assert len(world.gone) == 512
    assert {mapping.offset // BLOCK for mapping in world.gone} == {2}
    assert world.spaces[0].held() == world.iommu.mappings


IOVA_PAGES, MODEL_BLOCKS = 64, 6
STEP = BLOCK // 4
FAILING = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 6), st.booleans()))


class IommuModel(RuleBasedStateMachine):
    """mapped: what the guest must believe; failures may leave an address space with less, and only if reported."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world = World(self.stack, spaces=1, max_bytes=10 * BLOCK, max_mappings=8)
        self.mapped: dict[int, GuestMapping] = {}
        self.plugged = {0, 1, 2, 3}
        self.joined = list(self.world.spaces)
        self.count = 1
        self.short = False
        self.disturbed = False

    def teardown(self) -> None:
        self.world.faults.disarm()
        self.stack.close()
        assert all(space.held() == () for space in self.joined)

    def attempt(self, failing: tuple[int, bool] | None, act: Callable[[], object]) -> bool:
        """Whether it succeeded."""
        faults = self.world.faults
        faults.disarm()
        if failing:
            faults.arm(failing[0], every_from=failing[0] if failing[1] else None)
        try:
            return act() not in (BUSY, ERROR, NACK)
        except VfioError:
            return False
        finally:
            self.disturbed |= any(faults.fails(step) for step in range(len(faults.steps)))
            faults.disarm()

    @rule(
        page=st.integers(0, IOVA_PAGES), unit=st.integers(0, 4 * MODEL_BLOCKS), count=st.integers(1, 9), failing=FAILING
    )
    def map(self, page: int, unit: int, count: int, failing: tuple[int, bool] | None) -> None:
        mapping = GuestMapping(page * STEP, unit * STEP, count * STEP, READ_WRITE)
        blocks = set(range(mapping.offset // BLOCK, -(-mapping.run.end // BLOCK)))
        allowed = (
            blocks <= self.plugged
            and not any(other.iova < mapping.end and mapping.iova < other.end for other in self.mapped.values())
            and len(self.mapped) < 8
            and sum(other.size for other in self.mapped.values()) + mapping.size <= 10 * BLOCK
        )
        done = self.attempt(failing, lambda: self.world.iommu.map(mapping.iova, mapping.offset, mapping.size))
        assert done <= allowed
        assert done or not allowed or failing
        if done or (allowed and mapping in self.world.iommu.mappings):
            self.mapped[mapping.iova] = mapping

    @rule(page=st.integers(0, IOVA_PAGES), count=st.integers(1, 24), failing=FAILING)
    def unmap(self, page: int, count: int, failing: tuple[int, bool] | None) -> None:
        start, end = page * STEP, (page + count) * STEP
        touched = [each for each in self.mapped.values() if each.iova < end and start < each.end]
        allowed = all(start <= each.iova and each.end <= end for each in touched)
        done = self.attempt(failing, lambda: self.world.iommu.unmap(start, end - start))
        assert done <= allowed
        assert done or not allowed or failing
        if done:
            for each in touched:
                del self.mapped[each.iova]

    @rule(block=st.integers(0, MODEL_BLOCKS - 1), count=st.integers(1, 3), failing=FAILING)
    def unplug(self, block: int, count: int, failing: tuple[int, bool] | None) -> None:
        if self.attempt(failing, lambda: self.world.unplug(block, count)):
            gone = set(range(block, block + count))
            assert gone <= self.plugged
            self.plugged -= gone
            for each in list(self.mapped.values()):
                if any(each.offset < (one + 1) * BLOCK and one * BLOCK < each.run.end for one in gone):
                    del self.mapped[each.iova]

    @rule(block=st.integers(0, MODEL_BLOCKS - 1), count=st.integers(1, 3))
    def plug(self, block: int, count: int) -> None:
        if self.attempt(None, lambda: self.world.ask(RequestType.PLUG, block, count)):
            self.plugged |= set(range(block, block + count))

    @rule(short=st.booleans(), failing=FAILING)
    def join(self, short: bool, failing: tuple[int, bool] | None) -> None:
        if len(self.joined) == 3:
            return
        space = FaultySpace(self.count, self.world.faults, short=short)
        self.count += 1
        if self.attempt(failing, lambda: self.world.iommu.join(space)) or space.held():
            self.joined.append(space)

    @rule(number=st.integers(0, 2), failing=FAILING)
    def leave(self, number: int, failing: tuple[int, bool] | None) -> None:
        if number < len(self.joined) and self.attempt(failing, lambda: self.world.iommu.leave(self.joined[number])):
            assert self.joined.pop(number).held() == ()

    @invariant()
    def every_address_space_holds_what_the_guest_mapped(self) -> None:
        assert {mapping.iova: mapping for mapping in self.world.iommu.mappings} == self.mapped
        for space in self.joined:
            held = set(space.held())
            assert held <= set(self.mapped.values())
            assert held == set(self.mapped.values()) or self.disturbed
        for mapping in self.mapped.values():
            assert self.world.device.discards.is_populated(mapping.offset, mapping.size)


TestIommu = IommuModel.TestCase
TestIommu.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
