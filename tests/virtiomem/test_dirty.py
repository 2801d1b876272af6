"""Dirty pages of plugged memory, from address spaces that log them, that do not, and that fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio.errors import InvalidArgument
from pyvfio.memory import Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory
from tests.support.virtiomem.spaces import LoggingSpace, RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import Section
from virtiomem.mapping import DirtyTracker, DmaMapper, GuestDomain, GuestIommu, GuestMapping
from virtiomem.mapping.page_bits import PageBits
from virtiomem.runs import Run
from virtiomem.trace import DmaLog

BLOCKS = 16
PAGE = 4096


class World:
    """Blocks 2 to 4 and 8 plugged, held by address spaces at the guest's addresses."""

    def __init__(self, stack: ExitStack, *spaces: RecordingAddressSpace) -> None:
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK))
        self.device = stack.enter_context(
            VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=BLOCKS * BLOCK, prealloc=False)
        )
        self.tracker = DirtyTracker(self.device.discards)
        for block, count in ((2, 3), (8, 1)):
            assert self.ask(RequestType.PLUG, block, count) is ResponseType.ACK
        for space in spaces:
            mapper = DmaMapper(space)
            self.device.discards.register(mapper, self.device.section)
            stack.callback(self.device.discards.unregister, mapper)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def dirty(self) -> set[int]:
        """Offsets of dirty pages, taken."""
        bits = int.from_bytes(self.tracker.take(), "little")
        return {number * PAGE for number in range(BLOCKS * BLOCK // PAGE) if bits >> number & 1}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pages(*blocks: int) -> set[int]:
    return {block * BLOCK + offset for block in blocks for offset in range(0, BLOCK, PAGE)}


def test_each_address_space_is_asked_once_for_each_run_and_for_itself(stack: ExitStack) -> None:
    """Each for itself: QEMU asks one object about another's pages."""
    first, second = LoggingSpace(0), LoggingSpace(1)
    world = World(stack, first, second)
    world.tracker.start({first: first, second: second})
    first.written = {ADDRESS + 2 * BLOCK, ADDRESS + 5 * BLOCK - PAGE}
    second.written = {ADDRESS + 8 * BLOCK + 3 * PAGE}
    world.tracker.sync()
    assert first.questions == second.questions == [(ADDRESS + 2 * BLOCK, 3 * BLOCK), (ADDRESS + 8 * BLOCK, BLOCK)]
    assert world.tracker.dirty_bytes == 3 * PAGE
    assert world.dirty() == {2 * BLOCK, 5 * BLOCK - PAGE, 8 * BLOCK + 3 * PAGE}
    assert world.dirty() == set()
    world.tracker.sync()
    assert world.tracker.dirty_bytes == 0
    world.tracker.stop()
    assert not first.tracking
    assert not second.tracking


def test_who_logs_nothing_may_have_written_all_it_maps(stack: ExitStack) -> None:
    silent = RecordingAddressSpace(0, DmaLog())
    world = World(stack, silent)
    world.tracker.start({silent: None})
    world.tracker.sync()
    assert world.dirty() == pages(2, 3, 4, 8)


def test_who_fails_to_answer_may_have_written_it(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    space = LoggingSpace(0)
    world = World(stack, space)
    world.tracker.start({space: space})
    space.fails = "read"
    world.tracker.sync()
    assert world.dirty() == pages(2, 3, 4, 8)
    assert len(caplog.records) == 2


def test_nobody_tracks_if_one_cannot(stack: ExitStack) -> None:
    first, second = LoggingSpace(0), LoggingSpace(1)
    world = World(stack, first, second)
    second.fails = "start"
    with pytest.raises(OSError, match="injected"):
        world.tracker.start({first: first, second: second})
    assert not first.tracking
    second.fails = ""
    world.tracker.start({first: first, second: second})
    with pytest.raises(InvalidArgument, match="already"):
        world.tracker.start({first: first})


def test_reading_dirties_nothing_and_sections_may_lie_anywhere(stack: ExitStack) -> None:
    reader, elsewhere = LoggingSpace(0), LoggingSpace(1)
    world = World(stack)
    for space, section in (
        (reader, Section(world.memory, 0, 0, BLOCKS * BLOCK, readonly=True)),
        (elsewhere, Section(world.memory, 3 * BLOCK + PAGE, PAGE, 2 * BLOCK)),
    ):
        mapper = DmaMapper(space)
        world.device.discards.register(mapper, section)
        stack.callback(world.device.discards.unregister, mapper)
    world.tracker.start({reader: reader, elsewhere: elsewhere})
    reader.written = {3 * BLOCK}
    elsewhere.written = {PAGE, 5 * PAGE}
    world.tracker.sync()
    assert world.dirty() == {3 * BLOCK + PAGE, 3 * BLOCK + 5 * PAGE}
    assert reader.questions == []


def test_a_guest_iommus_mappings_are_asked_for_where_they_lie(stack: ExitStack) -> None:
    space = LoggingSpace(0)
    world = World(stack)

    def mark(_: GuestDomain, mappings: Sequence[GuestMapping]) -> None:
        for mapping in mappings:
            for run in mapping.runs_of(world.memory):
                world.tracker.mark(run)

    iommu = stack.enter_context(
        GuestIommu(
            world.device.discards,
            world.device.section,
            max_bytes=8 * BLOCK,
            max_mappings=8,
            unmapped=mark,
        )
    )
    domain = iommu.open_domain()
    domain.join(space)
    domain.map(0x7000, ADDRESS + 2 * BLOCK + 3 * PAGE, 5 * PAGE)
    domain.map(0x1_0000, ADDRESS + 8 * BLOCK, 2 * PAGE)
    world.tracker.start({space: space})
    space.written = {0x7000, 0x8000, 0xB000}
    world.tracker.sync()
    start = 2 * BLOCK + 3 * PAGE
    assert world.dirty() == {start, start + PAGE, start + 4 * PAGE}
    domain.unmap(0x1_0000, 2 * PAGE)
    assert world.dirty() == {8 * BLOCK, 8 * BLOCK + PAGE}


def test_address_spaces_come_and_go_while_tracked(stack: ExitStack) -> None:
    first, late = LoggingSpace(0), LoggingSpace(1)
    world = World(stack, first)
    world.tracker.start({first: first})
    mapper = DmaMapper(late)
    world.device.discards.register(mapper, Section(world.memory, 8 * BLOCK, 0, BLOCK))
    world.tracker.join(late, late)
    late.written = {PAGE}
    world.tracker.sync()
    assert world.dirty() == {8 * BLOCK + PAGE}
    world.tracker.leave(late)
    world.device.discards.unregister(mapper)
    assert world.dirty() == pages(8)
    assert not late.tracking
    world.tracker.sync()
    assert world.dirty() == set()


def test_what_was_written_through_an_address_space_that_was_closed_is_unknown(stack: ExitStack) -> None:
    gone, other = LoggingSpace(0), LoggingSpace(1)
    world = World(stack, gone, other)
    world.tracker.start({gone: gone, other: other})
    gone.written = {ADDRESS + 2 * BLOCK}
    gone.vanish()
    world.tracker.sync()
    assert world.dirty() == pages(2, 3, 4, 8)
    other.written = {ADDRESS + 3 * BLOCK}
    world.tracker.sync()
    assert world.dirty() == {3 * BLOCK}


def test_what_is_not_plugged_is_never_dirty(stack: ExitStack) -> None:
    space = LoggingSpace(0)
    world = World(stack, space)
    world.tracker.start({space: space})
    world.tracker.mark(Run(0, BLOCKS * BLOCK))
    assert world.dirty() == pages(2, 3, 4, 8)


def test_pages_of_unplugged_blocks_are_clean_and_those_of_plugged_anew_blocks_are_dirty(stack: ExitStack) -> None:
    space = LoggingSpace(0)
    world = World(stack, space)
    world.tracker.start({space: space})
    space.written = {ADDRESS + 3 * BLOCK}
    world.tracker.sync()
    assert world.tracker.dirty_bytes == PAGE
    assert world.ask(RequestType.UNPLUG, 3, 1) is ResponseType.ACK
    assert world.tracker.dirty_bytes == 0
    assert world.ask(RequestType.PLUG, 3, 1) is ResponseType.ACK
    assert world.ask(RequestType.PLUG, 10, 1) is ResponseType.ACK
    assert world.tracker.dirty_bytes == 2 * BLOCK
    assert world.dirty() == pages(3, 10)
    world.tracker.stop()
    assert world.ask(RequestType.PLUG, 12, 1) is ResponseType.ACK
    assert world.dirty() == set()


def test_a_plug_that_is_refused_makes_nothing_dirty(stack: ExitStack) -> None:
    space = LoggingSpace(0)
    world = World(stack, space)
    world.tracker.start({space: space})
    late = FakeListener(FakeMemory(), needs_memory=False)
    world.device.discards.register(late, Section(world.memory, 12 * BLOCK, 0, BLOCK))
    late.memory.faults.arm(0)
    assert world.ask(RequestType.PLUG, 12, 1) is ResponseType.BUSY
    assert world.tracker.dirty_bytes == 0
    world.device.discards.unregister(late)


def test_what_devices_could_not_reach_for_a_moment_counts_as_written(stack: ExitStack) -> None:
    """An unplug that failed: the log of what was unmapped is gone, though everything is mapped again."""
    first, late = LoggingSpace(0), LoggingSpace(1)
    world = World(stack, first)
    world.tracker.start({first: first})
    mapper = DmaMapper(late)
    world.device.discards.register(mapper, world.device.section)
    world.tracker.join(late, late)
    assert world.tracker.dirty_bytes == 0
    late.unmap_fails = True
    assert world.ask(RequestType.UNPLUG, 3, 1) is ResponseType.BUSY
    assert world.dirty() == pages(3)
    late.unmap_fails = False
    world.tracker.leave(late)
    world.device.discards.unregister(mapper)


@pytest.mark.parametrize("unit", [PAGE // 4, 4 * PAGE])
def test_a_log_of_other_pages(stack: ExitStack, unit: int) -> None:
    space = LoggingSpace(0, unit)
    world = World(stack, space)
    world.tracker.start({space: space})
    space.written = {ADDRESS + 3 * BLOCK, ADDRESS + 8 * BLOCK + 5 * PAGE}
    world.tracker.sync()
    pages = range(4 * PAGE // PAGE if unit > PAGE else 1)
    assert world.dirty() == {
        start + page * PAGE for page in pages for start in (3 * BLOCK, 8 * BLOCK + 5 * PAGE // unit * unit)
    }


@pytest.mark.parametrize("run", [Run(PAGE, 8 * PAGE), Run(0, PAGE), Run(-BLOCK, BLOCK), Run(0, 17 * BLOCK)])
def test_bits_are_taken_by_the_byte(stack: ExitStack, run: Run) -> None:
    world = World(stack)
    with pytest.raises(InvalidArgument):
        world.tracker.take(run)


@given(st.sets(st.integers(0, 4 * BLOCK // PAGE)), st.integers(0, 7))
def test_any_pages_anywhere(written: set[int], shift: int) -> None:
    """Mapped at another place than the region's, by a whole number of pages that is no multiple of eight."""
    with ExitStack() as stack:
        space = LoggingSpace(0)
        world = World(stack)
        mapper = DmaMapper(space)
        world.device.discards.register(mapper, Section(world.memory, 2 * BLOCK + shift * PAGE, 0, 4 * BLOCK))
        world.tracker.start({space: space})
        space.written = {page * PAGE for page in written}
        world.tracker.sync()
        expected = {page * PAGE + 2 * BLOCK + shift * PAGE for page in written}
        assert world.dirty() == expected & pages(2, 3, 4)
        world.device.discards.unregister(mapper)


@given(
    st.lists(st.tuples(st.sampled_from(["fill", "clear", "add"]), st.integers(0, 70), st.integers(0, 70)), max_size=8)
)
def test_bits_against_a_set(changes: list[tuple[str, int, int]]) -> None:
    bits, expected = PageBits(70), set[int]()
    for change, one, other in changes:
        first, end = min(one, other), max(one, other)
        inside = set(range(first, end))
        match change:
            case "fill":
                bits.fill(first, end)
                expected |= inside
            case "clear":
                bits.clear(first, end)
                expected -= inside
            case _:
                # Every third page from three before first on.
                given_bits = sum(1 << page for page in range(0, end - first + 3, 3))
                bits.add(first, given_bits.to_bytes(16, "little"), 3, end - first)
                expected |= {first + page - 3 for page in range(3, end - first + 3, 3)}
    assert bits.count() == len(expected)
    number = int.from_bytes(bits.take(0, 9), "little")
    assert {page for page in range(72) if number >> page & 1} == expected
    assert bits.count() == 0
