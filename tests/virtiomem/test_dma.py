"""DmaMapper over the bookkeeping address space, which follows type1v2's rules."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest

from pyvfio.dma import Access, MappedRun
from pyvfio.errors import InvalidArgument, OutsideIovaRanges, ShortUnmap, VfioError
from pyvfio.memory import Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, MIB, FakeMemory, Heard
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import BusyReason, Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination, DiscardRefused, DiscardUse, ListenerDiverged, Section
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run
from virtiomem.trace import DmaCall, DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


REASONS = {
    errno.ENOSPC: BusyReason.NO_MAPPINGS_LEFT,
    errno.ENOMEM: BusyReason.NO_MEMORY,
    errno.EFAULT: BusyReason.NO_MEMORY,
}


class FailingSpace(RecordingAddressSpace):
    """unmaps: what the next unmaps do: "refused", "short" (gone, but it says half), "silent" (half, without a word)."""

    def __init__(self, log: DmaLog, mapping_limit: int | None = None) -> None:
        super().__init__(0, log, mapping_limit)
        self.unmaps: list[str] = []

    def unmap_dma(self, iova: int, size: int) -> int:
        kind = self.unmaps.pop(0) if self.unmaps else ""
        if kind == "refused":
            raise VfioError(errno.EIO, "unmap_dma", meaning="injected")
        unmapped = super().unmap_dma(iova, size)
        if kind == "short":
            raise ShortUnmap(errno.EIO, "unmap_dma", meaning="injected")
        return unmapped // 2 if kind == "silent" else unmapped


class World:
    """A device of 1 GiB in 2 MiB blocks, and an address space that its mapper has joined."""

    def __init__(self, stack: ExitStack, limit: int | None = None, region: int = 1 << 30, block: int = BLOCK) -> None:
        self.log = DmaLog()
        self.heard = Heard()
        self.block = block
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, region))
        self.coordination = DiscardCoordination()
        self.device = stack.enter_context(
            VirtioMem(
                self.memory,
                address=ADDRESS,
                block_size=block,
                requested_size=region,
                prealloc=False,
                coordination=self.coordination,
                events=self.heard,
            )
        )
        self.space = FailingSpace(self.log, limit)
        self.mapper = stack.enter_context(DmaMapper(self.space, self.coordination))
        self.device.discards.register(self.mapper, self.device.section)
        stack.callback(self.leave)

    def leave(self) -> None:
        self.space.unmaps.clear()
        self.log.forget_refusals()
        self.device.discards.unregister(self.mapper)
        assert self.space.mappings() == ()

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        request = Request(kind, ADDRESS + block * self.block, count)
        return Response.parse(self.device.handle(bytes(request))).type

    def mapped(self) -> list[Run]:
        return [Run(run.iova, run.size) for run in self.space.mappings()]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(stack: ExitStack) -> World:
    return World(stack)


def test_100_mib_in_2_mib_blocks_is_50_maps_and_one_unmap(world: World) -> None:
    assert world.ask(PLUG, 0, 50) is ACK
    assert world.log.take() == tuple(DmaCall(0, "map", ADDRESS + block * BLOCK, BLOCK) for block in range(50))
    assert world.ask(UNPLUG, 0, 50) is ACK
    assert world.log.take() == (DmaCall(0, "unmap", ADDRESS, 100 * MIB),)


def test_unplug_all_is_one_unmap_of_the_region(world: World) -> None:
    for block in range(0, 10, 2):
        world.ask(PLUG, block, 1)
    world.log.take()
    assert world.ask(UNPLUG_ALL) is ACK
    assert world.log.take() == (DmaCall(0, "unmap", ADDRESS, 1 << 30),)
    assert world.ask(UNPLUG_ALL) is ACK
    assert world.log.take() == ()


def test_joining_late_maps_exactly_what_is_plugged(world: World, stack: ExitStack) -> None:
    world.ask(PLUG, 3, 2)
    world.ask(PLUG, 9, 1)
    late = RecordingAddressSpace(1, world.log)
    mapper = stack.enter_context(DmaMapper(late, world.coordination))
    world.device.discards.register(mapper, world.device.section)
    assert [(run.iova, run.mappings) for run in late.mappings()] == [(ADDRESS + 3 * BLOCK, 2), (ADDRESS + 9 * BLOCK, 1)]
    world.device.discards.unregister(mapper)
    assert late.mappings() == ()
    assert len(world.mapped()) == 2


def test_a_readonly_part_at_another_address(world: World, stack: ExitStack) -> None:
    space = RecordingAddressSpace(1, world.log)
    mapper = stack.enter_context(DmaMapper(space))
    world.device.discards.register(mapper, Section(world.memory, BLOCK + 4096, 4096, 2 * BLOCK, readonly=True))
    world.ask(PLUG, 0, 8)
    assert space.mappings() == (MappedRun(4096, 2 * BLOCK, world.memory, BLOCK + 4096, Access.READ, BLOCK),)
    assert space.mapping_count == 3
    world.ask(UNPLUG, 1, 1)
    assert [(run.iova, run.size) for run in space.mappings()] == [(BLOCK, BLOCK + 4096)]
    world.device.discards.unregister(mapper)


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EEXIST, errno.EINVAL, errno.ENOSPC, errno.EFAULT])
@pytest.mark.parametrize("nth", [0, 1, 4])
def test_a_refused_map_is_busy_and_maps_nothing(world: World, nth: int, code: int) -> None:
    world.ask(PLUG, 20, 2)
    before = world.mapped()
    world.log.refuse_map(0, nth, code)
    assert world.ask(PLUG, 0, 5) is BUSY
    assert world.mapped() == before
    assert world.heard.refused == [(PLUG, REASONS.get(code, BusyReason.MAPPING_REFUSED))]
    world.log.forget_refusals()
    assert world.ask(PLUG, 0, 5) is ACK


@pytest.mark.parametrize("kind", ["refused", "short", "silent"])
def test_an_unmap_that_fails_or_falls_short_is_busy_and_maps_again(world: World, kind: str) -> None:
    world.ask(PLUG, 2, 3)
    world.ask(PLUG, 6, 3)
    before = world.space.mappings()
    for request in ((UNPLUG, 3, 2), (UNPLUG_ALL, 0, 0)):
        world.space.unmaps.append(kind)
        assert world.ask(*request) is BUSY
        assert world.space.mappings() == before
    assert world.device.discards.divergences == ()
    assert world.device.statistics.refusals == {BusyReason.DISCARD_FAILED: 2}
    assert world.ask(UNPLUG, 3, 2) is ACK
    assert world.ask(UNPLUG_ALL) is ACK


def test_what_cannot_be_mapped_again_is_reported_and_repaired(world: World) -> None:
    world.ask(PLUG, 0, 8)
    world.space.unmaps.append("short")
    world.log.refuse_map(0, 1, errno.ENOMEM)
    assert world.ask(UNPLUG, 2, 4) is BUSY
    assert world.heard.refused == [(UNPLUG, BusyReason.LISTENER_DIVERGED)]
    (divergence,) = world.device.discards.divergences
    assert (divergence.stale, divergence.section.run) == (False, Run(2 * BLOCK, 4 * BLOCK))
    assert world.mapped() == [Run(ADDRESS, 2 * BLOCK), Run(ADDRESS + 6 * BLOCK, 2 * BLOCK)]
    assert world.device.config.plugged_size == 8 * BLOCK
    world.log.forget_refusals()
    assert world.ask(PLUG, 8, 1) is ACK
    assert world.mapped() == [Run(ADDRESS, 9 * BLOCK)]


def test_a_map_that_cannot_be_undone_is_reported_and_repaired(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.space.map_dma

    def half(iova: int, memory: Memory, offset: int, size: int, access: Access, *, granularity: int) -> None:
        original(iova, memory, offset, size // 4, access, granularity=granularity)
        raise VfioError(errno.ENOMEM, "map_dma", meaning="injected")

    monkeypatch.setattr(world.space, "map_dma", half)
    assert world.ask(PLUG, 0, 4) is BUSY
    (divergence,) = world.device.discards.divergences
    assert (divergence.stale, divergence.section.run) == (True, Run(0, BLOCK))
    monkeypatch.undo()
    assert world.ask(PLUG, 1, 4) is ACK
    assert world.device.discards.divergences == ()
    assert world.mapped() == [Run(ADDRESS + BLOCK, 4 * BLOCK)]


@pytest.mark.parametrize("size", [BLOCK, 4096])
@pytest.mark.parametrize("ours", [False, True])
def test_what_others_have_mapped_among_the_blocks_is_not_touched(
    world: World, stack: ExitStack, ours: bool, size: int
) -> None:
    other = world.memory if ours else stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 9 * BLOCK))
    world.ask(PLUG, 0, 4)
    world.space.map_dma(ADDRESS + 8 * BLOCK, other, 40 * BLOCK if ours else 8 * BLOCK, size)
    before = world.space.mappings()
    for request in ((UNPLUG_ALL, 0, 0), (PLUG, 7, 3)):
        assert world.ask(*request) is BUSY
        assert world.space.mappings() == before
    assert world.ask(UNPLUG, 0, 2) is ACK
    world.space.unmap_dma(ADDRESS + 8 * BLOCK, size)
    assert world.ask(UNPLUG_ALL) is ACK


def test_what_somebody_else_unmapped_is_reported_and_mapped_again(world: World) -> None:
    world.ask(PLUG, 0, 4)
    world.ask(PLUG, 8, 1)
    world.space.unmap_dma(ADDRESS + BLOCK, 2 * BLOCK)
    (divergence,) = world.device.discards.divergences
    assert (divergence.stale, divergence.section.run) == (False, Run(BLOCK, 2 * BLOCK))
    assert world.ask(PLUG, 9, 1) is ACK
    assert world.device.discards.divergences == ()
    assert world.mapped() == [Run(ADDRESS, 4 * BLOCK), Run(ADDRESS + 8 * BLOCK, 2 * BLOCK)]


def test_what_is_lost_and_cannot_be_mapped_again_stays_reported(world: World) -> None:
    world.ask(PLUG, 0, 2)
    world.space.unmap_all()
    world.log.refuse_map(0, 0, errno.ENOMEM)
    assert world.ask(PLUG, 8, 1) is ACK
    for _ in range(2):
        assert [divergence.section.run for divergence in world.device.discards.divergences] == [Run(0, 2 * BLOCK)]
    assert world.ask(UNPLUG, 0, 2) is ACK
    assert world.device.discards.divergences == ()
    assert world.mapped() == [Run(ADDRESS + 8 * BLOCK, BLOCK)]


def test_a_mapper_keeps_uncoordinated_discards_away_until_it_is_closed() -> None:
    coordination = DiscardCoordination()
    space = RecordingAddressSpace(0, DmaLog())
    with coordination.hold(DiscardUse.REQUIRE, "balloon"), pytest.raises(DiscardRefused, match="balloon"):
        DmaMapper(space, coordination)
    mapper = DmaMapper(space, coordination)
    with pytest.raises(DiscardRefused, match="DMA mapper of address space 0"):
        coordination.hold(DiscardUse.REQUIRE, "balloon")
    mapper.close()
    mapper.close()
    coordination.hold(DiscardUse.REQUIRE, "balloon").release()


def test_two_devices_one_mapper_and_an_unmap_that_fails(world: World, stack: ExitStack) -> None:
    """The other device works on, and so does this one afterwards."""
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 16 * BLOCK))
    address = ADDRESS + (4 << 30)
    other = stack.enter_context(
        VirtioMem(
            memory,
            address=address,
            block_size=BLOCK,
            requested_size=memory.size,
            prealloc=False,
            coordination=world.coordination,
            name="the other",
        )
    )
    other.discards.register(world.mapper, other.section)
    stack.callback(other.discards.unregister, world.mapper)

    def ask(kind: RequestType, count: int) -> ResponseType:
        return Response.parse(other.handle(bytes(Request(kind, address, count)))).type

    assert (world.ask(PLUG, 0, 4), ask(PLUG, 3)) == (ACK, ACK)
    for failures in (["refused"], ["short"]):
        world.space.unmaps = failures
        assert world.ask(UNPLUG, 0, 2) is BUSY
        assert ask(UNPLUG, 3) is ACK
        assert world.mapped() == [Run(ADDRESS, 4 * BLOCK)]
        assert ask(PLUG, 3) is ACK
    other.system_reset()
    assert world.mapped() == [Run(ADDRESS, 4 * BLOCK)]
    assert world.ask(UNPLUG_ALL) is ACK


def test_a_mapper_in_use_is_not_closed(world: World) -> None:
    world.ask(PLUG, 0, 4)
    with pytest.raises(VfioError, match=r"is registered for .* and maps 0x80_0000 bytes"):
        world.mapper.close()
    assert world.coordination.disabled


def test_sections_that_cannot_be_mapped_are_refused_at_once(world: World, stack: ExitStack) -> None:
    space = RecordingAddressSpace(1, world.log)
    mapper = stack.enter_context(DmaMapper(space))
    accept = mapper.accept
    with pytest.raises(InvalidArgument, match="only a pyvfio"):
        accept(Section(FakeMemory(), 0, ADDRESS, BLOCK), BLOCK)
    with pytest.raises(InvalidArgument, match="nothing smaller than 0x1000"):
        accept(Section(world.memory, 0, ADDRESS + 512, BLOCK), BLOCK)
    with pytest.raises(InvalidArgument, match="granularity 0x800"):
        accept(Section(world.memory, 0, ADDRESS, BLOCK), 2048)
    with pytest.raises(OutsideIovaRanges):
        accept(Section(world.memory, 0, (1 << 64) - BLOCK, 2 * BLOCK), BLOCK)


def test_a_failing_replay_is_undone_and_raised(world: World, stack: ExitStack) -> None:
    for block in (0, 4, 8):
        world.ask(PLUG, block, 2)
    space = RecordingAddressSpace(1, world.log)
    mapper = stack.enter_context(DmaMapper(space))
    world.log.take()
    world.log.refuse_map(1, 3, errno.ENOMEM)
    with pytest.raises(VfioError) as failure:
        world.device.discards.register(mapper, world.device.section)
    assert not isinstance(failure.value, ListenerDiverged)
    assert [call.operation for call in world.log.take()] == ["map"] * 4 + ["unmap"] * 2
    assert space.mappings() == ()


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_map_that_is_interrupted_leaves_nothing_that_is_not_known_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(PLUG, 0, 2)
    mapped = world.space.map_dma

    def half(iova: int, memory: Memory, offset: int, size: int, access: Access, *, granularity: int) -> None:
        mapped(iova, memory, offset, size // 2, access, granularity=granularity)
        raise KeyboardInterrupt

    monkeypatch.setattr(world.space, "map_dma", half)
    with pytest.raises(KeyboardInterrupt):
        world.ask(PLUG, 4, 4)
    assert world.mapped() == [Run(ADDRESS, 2 * BLOCK)]
    assert not world.device.discards.divergences
    monkeypatch.setattr(world.space, "unmap_dma", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.ask(PLUG, 4, 4)
    (divergence,) = world.device.discards.divergences
    assert (divergence.stale, divergence.section.run) == (True, Run(4 * BLOCK, 2 * BLOCK))
    monkeypatch.undo()
    assert world.ask(PLUG, 4, 4) is ACK
    assert world.mapped() == [Run(ADDRESS, 2 * BLOCK), Run(ADDRESS + 4 * BLOCK, 4 * BLOCK)]
    assert world.device.discards.divergences == ()


def test_an_unmap_that_is_interrupted_is_found_out_and_mapped_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(PLUG, 0, 4)
    unmapped = world.space.unmap_dma

    def half(iova: int, size: int) -> int:
        unmapped(iova, size // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(world.space, "unmap_dma", half)
    with pytest.raises(KeyboardInterrupt):
        world.ask(UNPLUG, 1, 2)
    assert world.device.config.plugged_size == 4 * BLOCK
    assert world.mapped() == [Run(ADDRESS, 4 * BLOCK)]
    assert not world.device.discards.divergences
    monkeypatch.setattr(world.space, "map_dma", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.ask(UNPLUG, 1, 2)
    (divergence,) = world.device.discards.divergences
    assert (divergence.stale, divergence.section.run) == (False, Run(BLOCK, 2 * BLOCK))
    monkeypatch.undo()
    assert world.ask(PLUG, 8, 1) is ACK
    assert world.mapped() == [Run(ADDRESS, 4 * BLOCK), Run(ADDRESS + 8 * BLOCK, BLOCK)]
    assert not world.device.discards.divergences
