"""MappingTable against a plain dictionary of mappings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio import Access, MappedRun, Memory, MemoryKind
from pyvfio.dma.mapping_table import MappingTable
from tests.support.operations import lines_run

BLOCK = 0x10_000
BASE = 0x1_0000_0000


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    with Memory.allocate(MemoryKind.ANONYMOUS, 64 * BLOCK) as memory:
        yield memory


def run(memory: Memory, block: int, blocks: int = 1, granularity: int | None = BLOCK) -> MappedRun:
    return MappedRun(BASE + block * BLOCK, blocks * BLOCK, memory, block * BLOCK, Access.READ_WRITE, granularity)


def test_adjacent_runs_of_one_granularity_become_one(memory: Memory) -> None:
    table = MappingTable()
    for block in (3, 5, 4):
        table.add(run(memory, block))
    assert table.runs() == (run(memory, 3, 3),)
    assert table.count == 3
    table.clear()


def test_single_mappings_stay_apart(memory: Memory) -> None:
    table = MappingTable()
    table.add(run(memory, 0, 2, granularity=None))
    table.add(run(memory, 2, 2, granularity=None))
    assert len(table.runs()) == table.count == 2
    assert table.bisected(BASE + BLOCK, BLOCK)
    assert not table.bisected(BASE + 2 * BLOCK, 2 * BLOCK)
    table.clear()


def test_parts_end_at_multiples_of_the_granularity_in_the_memory(memory: Memory) -> None:
    ragged = MappedRun(BASE, 2 * BLOCK, memory, BLOCK // 2, Access.READ, BLOCK)
    table = MappingTable()
    table.add(ragged)
    assert table.count == 3
    assert table.bisected(BASE, BLOCK)
    assert not table.bisected(BASE, BLOCK // 2)
    table.clear()


def test_the_memory_is_held_until_its_last_mapping_is_gone() -> None:
    memory = Memory.allocate(MemoryKind.ANONYMOUS, 2 * BLOCK)
    table = MappingTable()
    table.add(run(memory, 0, 2))
    memory.close()
    table.remove(BASE, BLOCK)
    assert memory.address
    table.remove(BASE + BLOCK, BLOCK)
    assert not memory.address


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.integers(1, 8)), max_size=40))
def test_like_a_set_of_blocks(memory: Memory, steps: list[tuple[bool, int, int]]) -> None:
    table, model = MappingTable(), set[int]()
    for adding, first, blocks in steps:
        span = set(range(first, min(first + blocks, 64)))
        if adding and not span & model:
            table.add(run(memory, first, len(span)))
            model |= span
        elif not adding:
            removed = table.remove(BASE + first * BLOCK, len(span) * BLOCK)
            assert sum(part.size for part in removed) == len(span & model) * BLOCK
            model -= span
        assert table.count == len(model)
        assert bool(table.overlapping(BASE + first * BLOCK, BLOCK)) == (first in model)
        assert table.iova_of(memory, first * BLOCK, BLOCK) == (BASE + first * BLOCK if first in model else None)
        assert table.covered(BASE, 64 * BLOCK) == len(model) * BLOCK
        starts = [block for block in model if block - 1 not in model]
        assert [part.iova for part in table.runs()] == [BASE + block * BLOCK for block in sorted(starts)]
    table.clear()


def test_a_mapping_that_takes_its_own_place_is_found_as_before(memory: Memory) -> None:
    table = MappingTable()
    single = run(memory, 4, 2, granularity=None)
    table.add(single)
    table.put(single.iova, single.size, single)
    assert table.iova_of(memory, 5 * BLOCK, BLOCK) == BASE + 5 * BLOCK
    table.remove(single.iova, single.size)
    assert table.iova_of(memory, 0, memory.size) is None


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(1, 16)), max_size=12),
    st.integers(0, 63),
    st.integers(1, 64),
)
def test_what_is_mapped_of_a_memory_is_found_wherever_it_is_mapped(
    memory: Memory, mapped: list[tuple[int, int]], first: int, count: int
) -> None:
    table = MappingTable()
    size = min(count, 64 - first) * BLOCK
    places = []
    for number, (block, blocks) in enumerate(mapped):
        offset, length = block * BLOCK, min(blocks, 64 - block) * BLOCK
        places.append(MappedRun(BASE + number * memory.size, length, memory, offset, Access.READ))
        table.add(places[-1])
    while True:
        found = table.iova_of(memory, first * BLOCK, size)
        there = [
            each for each in places if each.offset < first * BLOCK + size and first * BLOCK < each.offset + each.size
        ]
        assert (found is None) == (not there)
        if found is None:
            break
        (hit,) = [each for each in there if each.iova <= found < each.end]
        assert first * BLOCK <= hit.offset + found - hit.iova < first * BLOCK + size
        places.remove(hit)
        table.remove(hit.iova, hit.size)
    table.clear()


def test_a_question_about_memory_costs_what_is_near_and_not_what_is_mapped(memory: Memory) -> None:
    costs = []
    for count in (100, 400):
        table = MappingTable()
        for number in range(count):
            table.add(MappedRun(BASE + 2 * number * BLOCK, BLOCK, memory, number % 32 * BLOCK, Access.READ))
        costs.append(lines_run(lambda table=table: table.iova_of(memory, 40 * BLOCK, BLOCK)))  # type: ignore[misc]
        table.clear()
    assert costs[1] < 1.5 * costs[0], costs
