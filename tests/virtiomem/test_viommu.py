"""GuestIommu: what a guest's IOMMU maps of memory that comes and goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from pyvfio.dma import Access
from pyvfio.errors import InvalidArgument, VfioError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeMemory
from tests.support.virtiomem.iommu import BLOCKS, FaultySpace, World
from virtiomem.device import RequestType, ResponseType
from virtiomem.discard import (
    DiscardCoordination,
    DiscardRefused,
    DiscardUse,
    ListenerDiverged,
    RamDiscardManager,
    Section,
)
from virtiomem.mapping import GuestIommu, GuestMapping, GuestMappingRefused, Refusal

ACK, NACK, BUSY, ERROR = ResponseType
PAGE = 4096
READ_WRITE = Access.READ_WRITE
OPERATIONS: dict[str, Callable[[World, FaultySpace], object]] = {
    "map": lambda world, _: world.map(16 * BLOCK, 0, BLOCK),
    "unmap": lambda world, _: world.domain.unmap(0, 8 * BLOCK),
    "unplug": lambda world, _: world.unplug(1, 2),
    "join": lambda world, newcomer: world.domain.join(newcomer),
    "leave": lambda world, _: world.domain.leave(world.spaces[0]),
    "close": lambda world, _: world.iommu.close(),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_mapping_is_one_mapping_in_every_address_space(stack: ExitStack) -> None:
    world = World(stack)
    world.map(0, BLOCK + PAGE, 2 * BLOCK)
    world.map(1 << 40, 0, PAGE, Access.READ)
    expected = (
        GuestMapping(0, ADDRESS + BLOCK + PAGE, 2 * BLOCK, READ_WRITE),
        GuestMapping(1 << 40, ADDRESS, PAGE, Access.READ),
    )
    assert world.domain.mappings == expected
    assert [space.held() for space in world.spaces] == [expected, expected]
    assert world.iommu.mapped_bytes == 2 * BLOCK + PAGE
    assert world.domain.unmap(0, 1 << 41) == 2 * BLOCK + PAGE
    assert [space.held() for space in world.spaces] == [(), ()]
    assert world.domain.unmap(0, PAGE) == 0


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
        (0, -ADDRESS - PAGE, PAGE, READ_WRITE, Refusal.INVALID),
        (0, (1 << 64) - ADDRESS, PAGE, READ_WRITE, Refusal.INVALID),
        (0, -PAGE, PAGE, READ_WRITE, Refusal.OUTSIDE),
        (0, -PAGE, 2 * PAGE, READ_WRITE, Refusal.OUTSIDE),
        (0, BLOCKS * BLOCK, PAGE, READ_WRITE, Refusal.OUTSIDE),
        (0, BLOCKS * BLOCK - PAGE, 2 * PAGE, READ_WRITE, Refusal.OUTSIDE),
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
    world.map(1 << 30, 0, BLOCK)
    before = world.domain.mappings
    assert world.refused(lambda: world.map(iova, offset, size, access)) is reason
    assert world.domain.mappings == world.spaces[0].held() == before
    assert world.iommu.refusals == {reason: 1}


def test_an_unmap_never_cuts_a_mapping(stack: ExitStack) -> None:
    world = World(stack)
    world.map(BLOCK, 0, BLOCK)
    for iova, size in ((BLOCK, PAGE), (0, BLOCK + PAGE), (2 * BLOCK - PAGE, BLOCK)):
        assert world.refused(lambda iova=iova, size=size: world.domain.unmap(iova, size)) is Refusal.SPLIT  # type: ignore[misc]
    for iova, size in ((0, 0), (-1, PAGE), (0, (1 << 64) + 1)):
        assert world.refused(lambda iova=iova, size=size: world.domain.unmap(iova, size)) is Refusal.INVALID  # type: ignore[misc]
    assert len(world.domain.mappings) == 1


def test_a_page_that_is_mapped_twice_counts_twice(stack: ExitStack) -> None:
    world = World(stack, max_bytes=3 * PAGE)
    world.map(0, 0, 2 * PAGE)
    assert world.refused(lambda: world.map(BLOCK, 0, 2 * PAGE)) is Refusal.TOO_MANY_BYTES
    world.map(BLOCK, 0, PAGE)
    assert world.refused(lambda: world.map(2 * BLOCK, 0, PAGE)) is Refusal.TOO_MANY_BYTES
    world.domain.unmap(0, 2 * PAGE)
    world.map(2 * BLOCK, 0, PAGE)


def test_mappings_are_counted(stack: ExitStack) -> None:
    world = World(stack, max_mappings=2)
    world.map(0, 0, PAGE)
    world.map(PAGE, 0, PAGE)
    assert world.refused(lambda: world.map(2 * PAGE, 0, PAGE)) is Refusal.TOO_MANY_MAPPINGS
    world.unplug(0)
    world.ask(RequestType.PLUG, 0, 1)
    world.map(2 * PAGE, 0, PAGE)


def test_a_region_that_devices_may_only_read(stack: ExitStack) -> None:
    world = World(stack)
    section = Section(world.memory, 0, ADDRESS, BLOCK, readonly=True)
    iommu = stack.enter_context(GuestIommu(world.device.discards, section, max_bytes=BLOCK, max_mappings=1))
    domain = iommu.open_domain()
    assert world.refused(lambda: domain.map(0, ADDRESS, PAGE)) is Refusal.READONLY
    domain.map(0, ADDRESS, PAGE, Access.READ)


def test_mappings_are_revoked_with_their_block_and_do_not_come_back_with_it(stack: ExitStack) -> None:
    world = World(stack)
    world.map(0, 0, PAGE)
    world.map(BLOCK, BLOCK, 2 * BLOCK)
    world.map(8 * BLOCK, 3 * BLOCK, PAGE)
    first, spanning, last = world.domain.mappings
    assert world.unplug(2) is ACK
    assert world.gone == [spanning]
    assert world.domain.mappings == world.spaces[0].held() == world.spaces[1].held() == (first, last)
    assert world.ask(RequestType.PLUG, 2, 1) is ACK
    assert world.domain.mappings == world.spaces[0].held() == (first, last)
    assert world.ask(RequestType.UNPLUG_ALL) is ACK
    assert world.gone == [spanning, first, last]
    assert world.iommu.mapped_bytes == 0


def test_who_joins_gets_all_mappings_and_who_leaves_none(stack: ExitStack) -> None:
    world = World(stack, spaces=0)
    world.map(0, 0, PAGE)
    world.map(BLOCK, PAGE, BLOCK)
    late = FaultySpace(9, world.faults)
    world.domain.join(late)
    assert late.held() == world.domain.mappings
    with pytest.raises(InvalidArgument, match="it has joined domain 1 already"):
        world.domain.join(late)
    world.domain.leave(late)
    assert late.held() == ()
    assert len(world.domain.mappings) == 2
    with pytest.raises(InvalidArgument, match="it never joined"):
        world.domain.leave(late)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_failure_changes_nothing_and_the_next_try_succeeds(name: str, short: bool) -> None:
    operation, step, steps = OPERATIONS[name], 0, 1
    while step < steps:
        with ExitStack() as stack:
            world = World(stack, short=short)
            world.map(0, 0, PAGE)
            world.map(BLOCK, BLOCK + PAGE, BLOCK)
            world.map(2 * BLOCK, 2 * BLOCK, BLOCK)
            newcomer = FaultySpace(7, world.faults, short=short)
            before = world.domain.mappings
            world.faults.arm(step)
            with suppress(VfioError):
                assert operation(world, newcomer) is BUSY
            assert world.domain.mappings == world.spaces[0].held() == world.spaces[1].held() == before
            assert newcomer.held() == ()
            assert world.gone == []
            assert world.device.discards.divergences == ()
            world.faults.disarm()
            assert operation(world, newcomer) in (ACK, None, PAGE + 2 * BLOCK)
            step, steps = step + 1, len(world.faults.steps)
            if newcomer.held():
                world.domain.leave(newcomer)


def test_a_mapping_that_cannot_be_restored_is_reported_and_repaired(stack: ExitStack) -> None:
    world = World(stack, short=True)
    world.map(0, 0, 2 * BLOCK)
    (mapping,) = world.domain.mappings
    world.faults.arm(every_from=0)
    assert world.unplug(1) is BUSY
    (divergence,) = world.device.discards.divergences
    assert (divergence.listener, divergence.stale) == ("guest IOMMU", False)
    assert world.domain.mappings == (mapping,)
    world.faults.disarm()
    assert world.ask(RequestType.PLUG, 8, 1) is ACK
    assert world.device.discards.divergences == ()
    assert world.spaces[0].held() == world.spaces[1].held() == (mapping,)


def test_what_one_address_space_lost_is_still_taken_from_the_others(stack: ExitStack) -> None:
    world = World(stack, short=True)
    world.map(0, 0, 2 * BLOCK)
    world.faults.fails = lambda step: world.faults.steps[step].startswith("address space 1")
    assert world.unplug(1) is BUSY
    assert (len(world.spaces[0].held()), world.spaces[1].held()) == (1, ())
    assert world.unplug(1) is ACK
    assert world.spaces[0].held() == world.domain.mappings == ()
    assert world.device.discards.divergences == ()


def test_a_map_that_stays_in_one_address_space_stays_the_guests(stack: ExitStack) -> None:
    world = World(stack)
    world.faults.arm(every_from=1)
    with pytest.raises(GuestMappingRefused, match="still mapped in some address space") as caught:
        world.map(0, 0, PAGE)
    assert caught.value.reason is Refusal.HOST
    assert world.domain.mappings == world.spaces[0].held() != ()
    assert world.spaces[1].held() == ()
    world.faults.disarm()
    assert world.unplug(0) is ACK
    assert world.spaces[0].held() == ()


def test_an_address_space_that_cannot_be_rid_of_what_it_has_stays_in(stack: ExitStack) -> None:
    world = World(stack, spaces=0)
    world.map(0, 0, PAGE)
    world.map(BLOCK, PAGE, PAGE)
    stuck = FaultySpace(3, world.faults)
    world.faults.arm(every_from=1)
    with pytest.raises(ListenerDiverged, match="Let it leave"):
        world.domain.join(stuck)
    world.faults.disarm()
    world.domain.leave(stuck)
    assert stuck.held() == ()


def test_closing_takes_everything_back_and_lets_a_balloon_in(stack: ExitStack) -> None:
    world = World(stack)
    world.map(0, 0, PAGE)
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
    world.map(0, 0, PAGE)
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
        world.map(number * 2 * PAGE, offset, PAGE)
    assert world.unplug(2) is ACK
    assert len(world.gone) == 512
    assert {(mapping.address - ADDRESS) // BLOCK for mapping in world.gone} == {2}
    assert world.spaces[0].held() == world.domain.mappings
