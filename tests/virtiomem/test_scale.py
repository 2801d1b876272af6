"""What a request costs as runs, mappings and divergences become many: counted in lines of Python, never in seconds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from pyvfio.dma import DirtyBitmap
from pyvfio.memory import Memory, MemoryKind
from tests.support.operations import lines_run
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, Machine, failure
from tests.support.virtiomem.iommu import World
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import ListenerDiverged, Section
from virtiomem.mapping import DirtyTracker, DmaMapper
from virtiomem.runs import Run
from virtiomem.trace import DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
FEW, MANY = 100, 400
LINEAR = 1.5 * MANY / FEW
"""By how much more a cost may have grown from FEW to MANY. With the square it would be by 16 times."""
FLAT = 1.5


class Plain:
    """A listener that does nothing, and fails to populate when told to."""

    name = "plain"
    fails = False

    def accept(self, section: Section, granularity: int) -> None:
        pass

    def populate(self, section: Section, granularity: int) -> None:  # noqa: ARG002 (the listener's signature)
        if self.fails:
            raise failure("populate")

    def discard(self, section: Section) -> None:
        pass

    def discarded(self, section: Section) -> None:
        pass


class Host:
    """A Backing that does nothing, and fails to discard when told to."""

    page_size = 4096
    fails = False

    def __init__(self, size: int) -> None:
        self.size = size

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        pass

    def discard(self, offset: int, size: int) -> None:  # noqa: ARG002 (a backing's signature)
        if self.fails:
            raise failure("discard")

    def reclaim(self, offset: int, size: int) -> int:  # noqa: ARG002 (a backing's signature)
        return 0


class Fragmented:
    """Every second block of 2 * count is plugged; then nothing works any more."""

    def __init__(self, count: int) -> None:
        self.memory, self.listener = Host((2 * count + 8) * BLOCK), Plain()
        self.device = VirtioMem(
            self.memory, address=ADDRESS, block_size=BLOCK, requested_size=self.memory.size, prealloc=False
        )
        self.device.discards.register(self.listener, self.device.section)
        for block in range(0, 2 * count, 2):
            assert self.ask(PLUG, block, 1) is ACK
        self.memory.fails = self.listener.fails = True

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def end(self) -> None:
        self.memory.fails = self.listener.fails = False
        self.device.close()


def growth(cost: Callable[[int], int]) -> float:
    return cost(MANY) / cost(FEW)


def unplug_all_that_fails(count: int) -> int:
    machine = Fragmented(count)
    lines = lines_run(lambda: machine.ask(UNPLUG_ALL))
    assert len(machine.device.discards.divergences) == count
    machine.end()
    return lines


def request_while_diverged(kind: RequestType, block: int) -> Callable[[int], int]:
    def cost(count: int) -> int:
        machine = Fragmented(count)
        assert machine.ask(UNPLUG_ALL) is BUSY
        lines = lines_run(lambda: machine.ask(kind, block, 1))
        assert len(machine.device.discards.divergences) == count
        machine.end()
        return lines

    return cost


def repair_of_what_is_missing(count: int) -> int:
    machine = Fragmented(count)
    assert machine.ask(UNPLUG_ALL) is BUSY
    machine.listener.fails = False
    lines = lines_run(machine.device.discards.repair)
    assert machine.device.discards.divergences == ()
    machine.end()
    return lines


def reclaim_of_what_was_not_discarded(count: int) -> int:
    machine = Fragmented(count)
    for block in range(1, 2 * count, 2):
        assert machine.ask(PLUG, block, 1) is BUSY
    machine.listener.fails = False
    lines = lines_run(lambda: machine.ask(PLUG, 2 * count + 4, 1))
    machine.end()
    return lines


class Stuck(Plain):
    """It holds what it has failed to hold, and lets go of nothing."""

    def populate(self, section: Section, granularity: int) -> None:  # noqa: ARG002
        if self.fails:
            raise ListenerDiverged("populate", "stuck", [section])

    def discard(self, section: Section) -> None:  # noqa: ARG002
        if self.fails:
            raise failure("discard")


def request_while_much_is_stale(count: int) -> int:
    machine = Fragmented(count)
    machine.memory.fails = False
    stuck = Stuck()
    machine.device.discards.register(stuck, machine.device.section)
    machine.listener.fails, stuck.fails = False, True
    for block in range(1, 2 * count, 2):
        assert machine.ask(PLUG, block, 1) is BUSY
    lines = lines_run(lambda: machine.ask(PLUG, 2 * count + 4, 1))
    stuck.fails = False
    machine.end()
    return lines


def revocation_that_fails(count: int) -> int:
    with ExitStack() as stack:
        world = World(stack, spaces=2, short=True, max_mappings=count)
        for number in range(count):
            world.map(number * 8192, number % 512 * 4096, 4096)
        world.faults.fails = lambda step: step == 2 * count - 1
        lines = lines_run(lambda: world.unplug(0))
        assert world.domain.mappings == world.spaces[0].held() == world.spaces[1].held()
        world.faults.disarm()
        return lines


@pytest.mark.parametrize(
    "cost",
    [
        unplug_all_that_fails,
        request_while_diverged(PLUG, 1),
        request_while_diverged(UNPLUG, 0),
        repair_of_what_is_missing,
        reclaim_of_what_was_not_discarded,
        pytest.param(request_while_much_is_stale, marks=pytest.mark.thorough),
        revocation_that_fails,
    ],
    ids=lambda cost: cost.__qualname__,
)
def test_nothing_grows_with_the_square_of_what_has_failed(cost: Callable[[int], int]) -> None:
    assert growth(cost) < LINEAR


class Mapped:
    """Every second block of 2 * count is plugged and mapped."""

    def __init__(self, stack: ExitStack, count: int) -> None:
        memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, (2 * count + 8) * BLOCK))
        self.device = stack.enter_context(
            VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False)
        )
        self.space = RecordingAddressSpace(0, DmaLog())
        mapper = DmaMapper(self.space)
        self.device.discards.register(mapper, self.device.section)
        stack.callback(self.device.discards.unregister, mapper)
        for block in range(0, 2 * count, 2):
            assert self.ask(PLUG, block) is ACK

    def ask(self, kind: RequestType, block: int, count: int = 1) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type


def plug_and_unplug(count: int) -> int:
    with ExitStack() as stack:
        mapped = Mapped(stack, count)
        return lines_run(lambda: (mapped.ask(PLUG, count | 1), mapped.ask(UNPLUG, count | 1)))


def test_a_request_does_not_grow_with_what_is_mapped() -> None:
    assert growth(plug_and_unplug) < FLAT


class CountingInt(int):
    """A bitmap that counts how often all of its bits are moved."""

    moves = 0

    def __rshift__(self, other: int) -> int:
        CountingInt.moves += 1
        return int(self) >> other

    def __and__(self, other: int) -> int:
        CountingInt.moves += 1
        return int(self) & other


class Written(RecordingAddressSpace):
    """All that it maps is written."""

    def track_dirty(self) -> Written:
        return self

    def close(self) -> None:
        pass

    def read(self, iova: int, size: int) -> DirtyBitmap:
        return DirtyBitmap(iova, size, 4096, CountingInt((1 << size // 4096) - 1))


def test_a_bitmap_is_not_moved_for_each_part_that_is_plugged() -> None:
    with Memory.allocate(MemoryKind.ANONYMOUS, 64 * BLOCK) as memory, ExitStack() as stack:
        device = stack.enter_context(
            VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False)
        )
        space = Written(0, DmaLog())
        space.map_dma(0, memory, 0, memory.size)
        tracker = DirtyTracker(device.discards)
        for block in range(0, 64, 2):
            device.handle(bytes(Request(PLUG, ADDRESS + block * BLOCK, 1)))
        tracker.start({space: space})
        CountingInt.moves = 0
        tracker.sync()
        assert CountingInt.moves == 0
        assert tracker.dirty_bytes == 32 * BLOCK
        tracker.stop()
        space.unmap_all()


def test_marking_much_is_no_more_than_marking_little() -> None:
    """Of 32 GiB, in one run or in many: by bytes, and never page by page."""
    memory = Host(32 << 30)
    with VirtioMem(
        memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False, usable_extent=memory.size
    ) as device:
        tracker = DirtyTracker(device.discards)
        tracker.start({})
        device.handle(bytes(Request(PLUG, ADDRESS, 16384)))
        tracker.take()
        little, much = (lines_run(lambda run=run: tracker.mark(run)) for run in (Run(0, BLOCK), Run(0, memory.size)))  # type: ignore[misc]
        assert much == little
        assert tracker.dirty_bytes == memory.size
        tracker.stop()


def test_a_message_stays_short_however_much_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    machine = Fragmented(MANY)
    assert machine.ask(UNPLUG_ALL) is BUSY
    assert machine.ask(UNPLUG, 0, 1) is BUSY
    assert max(len(record.getMessage()) for record in caplog.records) < 1000
    assert f"and {MANY - 3} more" in caplog.text
    machine.end()


def test_many_listeners_that_are_told_are_each_told_once() -> None:
    machine = Machine()
    listeners = [FakeListener(machine.memory, f"{number}") for number in range(20)]
    for listener in listeners:
        machine.discards.register(listener, machine.device.section)
    assert machine.plug(0, 4) is ACK
    assert machine.unplug(0, 4) is ACK
    assert {len(listener.calls) for listener in listeners} == {2}
