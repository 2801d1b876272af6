"""RamDiscardManager: sections, replay, order, several sources. What fails is in test_transactions.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio.errors import InvalidArgument
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory, FakeSource, divided
from virtiomem.discard import RamDiscardListener, RamDiscardManager, RamDiscardSource, Section
from virtiomem.runs import Run, intersect


class Region:
    """A manager of 64 blocks with sources that say what they are told to."""

    def __init__(self, *populated: Sequence[int], granularity: int = BLOCK) -> None:
        self.memory = FakeMemory()
        self.memory.populated = [Run(0, self.memory.size)]
        self.discards = RamDiscardManager(self.memory)
        self.sources = [
            FakeSource(f"source {number}", granularity, divided(blocks)) for number, blocks in enumerate(populated)
        ]
        for source in self.sources:
            self.discards.add_source(source)
        self.log: list[str] = []

    def section(self, block: int = 0, count: int = 64, address: int = ADDRESS) -> Section:
        return Section(self.memory, block * BLOCK, address, count * BLOCK)

    def join(self, name: str = "listener", section: Section | None = None) -> FakeListener:
        listener = FakeListener(self.memory, name, log=self.log)
        self.discards.register(listener, section or self.section())
        return listener

    def populate(self, source: int, *blocks: int) -> None:
        run = divided(blocks)[0]
        self.discards.populate(self.sources[source], run)
        self.sources[source].populated = divided(sorted({*self.blocks(source), *blocks}))

    def discard(self, source: int, *blocks: int) -> None:
        with self.discards.discarding(self.sources[source], divided(blocks)[0]):
            self.sources[source].populated = divided(sorted({*self.blocks(source)} - {*blocks}))

    def blocks(self, source: int) -> list[int]:
        return [
            block for run in self.sources[source].populated for block in range(run.start // BLOCK, run.end // BLOCK)
        ]


def test_intersecting_a_section_moves_both_offsets() -> None:
    section = Section(FakeMemory(), 4 * BLOCK, ADDRESS, 8 * BLOCK, readonly=True)
    part = section.intersect(Run(6 * BLOCK, 100 * BLOCK))
    assert part == Section(section.memory, 6 * BLOCK, ADDRESS + 2 * BLOCK, 6 * BLOCK, readonly=True)
    assert section.intersect(Run(0, 4 * BLOCK)) is None
    assert section.intersect(Run(12 * BLOCK, BLOCK)) is None


@pytest.mark.parametrize(
    ("offset", "size", "populated"),
    [
        (2 * BLOCK, 2 * BLOCK, True),
        (2 * BLOCK + 1, 17, True),
        (4 * BLOCK - 1, 1, True),
        (4 * BLOCK - 1, 2, False),
        (2 * BLOCK - 1, 2, False),
        (0, 64 * BLOCK, False),
        (63 * BLOCK, BLOCK, True),
        (63 * BLOCK, BLOCK + 1, False),
    ],
)
def test_populated_is_every_byte_of_any_range(offset: int, size: int, populated: bool) -> None:
    assert Region([2, 3, 63]).discards.is_populated(offset, size) == populated


def test_replays_are_maximal_runs_clipped_to_the_section() -> None:
    region = Region([0, 1, 5, 6, 7, 9])
    section = region.section(block=1, count=6)
    populated: list[tuple[int, int]] = []
    discarded: list[tuple[int, int]] = []

    def note(calls: list[tuple[int, int]]) -> Callable[[Section], None]:
        return lambda part: calls.append(((part.offset_within_address_space - ADDRESS) // BLOCK, part.size // BLOCK))

    region.discards.replay_populated(section, note(populated))
    region.discards.replay_discarded(section, note(discarded))
    assert (populated, discarded) == ([(0, 1), (4, 2)], [(1, 3)])


def test_what_a_replayed_function_raises_ends_the_replay() -> None:
    seen = []

    def refuse(part: Section) -> None:
        seen.append(part)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Region([1, 3]).discards.replay_populated(Region([1, 3]).section(), refuse)
    assert len(seen) == 1


def test_who_registers_gets_what_is_populated_and_unregistering_takes_it_at_once() -> None:
    region = Region([0, 1, 5, 9])
    listener = region.join()
    assert listener.held == divided([0, 1, 5, 9])
    region.discards.unregister(listener)
    assert listener.held == []
    assert listener.calls[3:] == [("discard", ADDRESS, 64 * BLOCK)]


def test_nothing_is_discarded_where_nothing_is_held() -> None:
    region = Region([])
    listener = region.join()
    region.discard(0, 1, 2, 3)
    region.discards.unregister(listener)
    assert listener.calls == []


def test_populate_in_order_of_registration_discard_in_reverse() -> None:
    region = Region([])
    for name in "abc":
        region.join(name)
    region.populate(0, 4, 5)
    region.discard(0, 4)
    assert region.log == [*(f"populate {name}" for name in "abc"), *(f"discard {name}" for name in "cba")]


def test_sections_may_be_parts_and_overlap() -> None:
    region = Region([])
    low = region.join("low", region.section(0, 6))
    high = region.join("high", region.section(4, 60, address=0))
    region.populate(0, 3, 4, 5, 6, 7)
    assert low.calls == [("populate", ADDRESS + 3 * BLOCK, 3 * BLOCK)]
    assert high.calls == [("populate", 0, 4 * BLOCK)]
    region.discard(0, 3, 4, 5, 6, 7)
    assert (low.held, high.held) == ([], [])


def test_one_listener_with_two_sections() -> None:
    region = Region([1, 40])
    listener = FakeListener(region.memory)
    low, high = region.section(0, 8), region.section(32, 32, address=0)
    region.discards.register(listener, low)
    region.discards.register(listener, high)
    assert listener.held == divided([1, 40])
    region.discards.unregister(listener, low)
    assert listener.held == divided([40])
    region.discards.unregister(listener)
    assert listener.held == []


def test_several_sources_populate_what_all_of_them_have() -> None:
    region = Region([0, 1, 2, 3, 8], [1, 2, 4, 8, 9])
    listener = region.join()
    assert listener.held == divided([1, 2, 8])
    region.populate(0, 4, 5)
    assert listener.held == divided([1, 2, 4, 8])
    region.discard(1, 1, 2, 3, 4, 5)
    assert listener.held == divided([8])
    assert listener.calls[-1] == ("discard", ADDRESS + BLOCK, 5 * BLOCK)


def test_sources_come_and_go() -> None:
    region = Region([0, 1, 2, 3])
    listener = region.join()
    other = FakeSource("other", BLOCK, divided([2, 3, 4]))
    region.discards.add_source(other)
    assert listener.held == divided([2, 3])
    region.discards.remove_source(other)
    assert listener.held == divided([0, 1, 2, 3])
    region.discards.remove_source(region.sources[0])
    assert listener.held == [Run(0, region.memory.size)]


@given(st.lists(st.sets(st.integers(0, 63)), min_size=1, max_size=3))
def test_and_of_sources_by_runs(populated: list[set[int]]) -> None:
    region = Region(*(sorted(blocks) for blocks in populated))
    assert region.join().held == divided(sorted(set.intersection(*populated)))


def test_without_a_source_everything_is_populated() -> None:
    region = Region()
    assert region.discards.is_populated(0, region.memory.size)
    assert region.discards.granularity == region.memory.size
    assert region.join().held == [Run(0, region.memory.size)]


def test_granularity_is_the_finest_and_promised_to_listeners() -> None:
    region = Region([], granularity=BLOCK)
    region.discards.add_source(FakeSource("fine", 4096))
    assert region.discards.granularity == 4096
    with pytest.raises(InvalidArgument):
        region.discards.register(FakeListener(region.memory, finest=8192), region.section())


def test_a_source_finer_than_what_a_listener_was_promised_is_refused() -> None:
    region = Region([0])
    listener = region.join("mapper")
    with pytest.raises(InvalidArgument, match="mapper holds units of 0x20_0000 bytes"):
        region.discards.add_source(FakeSource("fine", 4096))
    region.discards.add_source(FakeSource("coarse", 2 * BLOCK, [Run(0, region.memory.size)]))
    region.discards.unregister(listener)
    region.discards.add_source(FakeSource("fine", 4096))


REFUSED: dict[str, Callable[[Region, RamDiscardListener, RamDiscardSource], None]] = {
    "register twice": lambda region, listener, _: region.discards.register(listener, region.section()),
    "other memory": lambda region, listener, _: region.discards.register(
        listener, Section(FakeMemory(), 0, ADDRESS, BLOCK)
    ),
    "outside": lambda region, listener, _: region.discards.register(listener, region.section(63, 2)),
    "empty": lambda region, listener, _: region.discards.register(listener, region.section(3, 0)),
    "unregister a stranger": lambda region, _, __: region.discards.unregister(FakeListener(region.memory)),
    "unregister another section": lambda region, listener, _: region.discards.unregister(
        listener, region.section(1, 1)
    ),
    "add a source twice": lambda region, _, source: region.discards.add_source(source),
    "remove a stranger": lambda region, _, __: region.discards.remove_source(FakeSource()),
    "populate by a stranger": lambda region, _, __: region.discards.populate(FakeSource(), Run(0, BLOCK)),
    "odd granularity": lambda region, _, __: region.discards.add_source(FakeSource("odd", 3 * BLOCK)),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_change_nothing(mistake: str) -> None:
    region = Region([0, 1])
    listener = region.join()
    with pytest.raises(InvalidArgument):
        REFUSED[mistake](region, listener, region.sources[0])
    region.populate(0, 2)
    assert listener.held == divided([0, 1, 2])


def test_a_part_of_a_memory() -> None:
    memory = FakeMemory()
    discards = RamDiscardManager(memory, offset=8 * BLOCK, size=8 * BLOCK)
    assert discards.granularity == 8 * BLOCK
    assert discards.is_populated(8 * BLOCK, 8 * BLOCK)
    assert not discards.is_populated(7 * BLOCK, 2 * BLOCK)
    assert intersect([discards.region], [Run(0, 8 * BLOCK)]) == []
