"""The record of what is mapped, by itself: which runs are one, what is in doubt, and whose lock is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from pyvfio import Memory, MemoryKind
from pyvfio.dma import Access, MappedRun
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.errors import ClosedError, VfioError
from pyvfio.kernel import chain

PAGE = 4096
END = 1 << 64


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.allocate(MemoryKind.ANONYMOUS, 64 * PAGE) as memory:
        yield memory


@pytest.fixture
def run(memory: Memory) -> MappedRun:
    return MappedRun(0x10_0000, 4 * PAGE, memory, 0, Access.READ_WRITE, PAGE)


def following(run: MappedRun) -> MappedRun:
    return replace(run, iova=run.end, offset=run.offset + run.size)


def test_what_follows_and_is_alike_is_one_run(run: MappedRun) -> None:
    table = MappingTable()
    table.enter(run, following(run))
    assert table.runs() == (replace(run, size=2 * run.size),)
    table.clear()


@pytest.mark.parametrize(
    "change",
    [{"access": Access.READ}, {"granularity": 2 * PAGE}, {"granularity": None}, {"offset": 8 * PAGE}],
    ids=["access", "granularity", "a single mapping", "a place in memory"],
)
def test_runs_of_another_kind_are_not_joined(run: MappedRun, change: dict[str, Any]) -> None:
    table = MappingTable()
    table.enter(run, other := replace(following(run), **change))
    assert table.runs() == (run, other)
    assert table.count == run.mappings + other.mappings
    table.clear()


def test_runs_of_another_memory_are_not_joined(run: MappedRun) -> None:
    table = MappingTable()
    with Memory.allocate(MemoryKind.ANONYMOUS, 64 * PAGE) as another:
        table.enter(run, other := replace(following(run), memory=another))
        assert table.runs() == (run, other)
        table.clear()


def test_runs_are_joined_only_where_a_mapping_ends(run: MappedRun) -> None:
    """Three pages in units of two: the last mapping has one, and what follows it is one by itself."""
    table = MappingTable()
    first = replace(run, size=3 * PAGE, granularity=2 * PAGE)
    table.enter(first, other := following(first))
    assert table.runs() == (first, other)
    table.clear()


def test_what_is_about_to_be_mapped_is_in_doubt_until_it_is_confirmed(run: MappedRun) -> None:
    table = MappingTable()
    table.enter(run)
    assert table.doubted(0, END) == (run,)
    table.trust(run.iova, run.size)
    assert table.doubted(0, END) == ()
    table.clear()


def test_nothing_is_in_doubt_of_what_is_gone(run: MappedRun) -> None:
    table = MappingTable()
    table.enter(run)
    assert table.remove(run.iova, run.size) == (run,)
    table.add(run)
    assert table.doubted(0, END) == ()
    table.clear()


class Watched(Memory):
    """log: what was done with its lock, and whether anything was entered by then."""

    table: MappingTable
    log: list[tuple[str, int]]

    @property
    def lock(self) -> Any:
        return self

    def __enter__(self) -> Any:
        self.log.append(("locked", len(self.table.runs())))

    def __exit__(self, *_: object) -> None:
        self.log.append(("unlocked", len(self.table.runs())))


def test_the_memorys_lock_is_held_while_a_mapping_of_it_is_entered(run: MappedRun) -> None:
    """Whoever discards its pages has it, too: so what is mapped afterwards is not discarded."""
    watched = Watched.allocate(MemoryKind.ANONYMOUS, 64 * PAGE)
    assert isinstance(watched, Watched)
    watched.table, watched.log = MappingTable(), []
    watched.table.add(replace(run, memory=watched))
    assert watched.log == [("locked", 0), ("unlocked", 1)]
    watched.table.clear()
    watched.close()


def test_closed_memory_is_not_entered(run: MappedRun) -> None:
    table = MappingTable()
    run.memory.close()
    with pytest.raises(ClosedError):
        table.enter(run)
    table.clear()


def test_a_chain_of_capabilities_that_runs_in_a_circle_is_refused() -> None:
    header = (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
    data = bytes(8) + header + (16).to_bytes(4, "little") + header + (8).to_bytes(4, "little")
    with pytest.raises(VfioError, match="is a circle"):
        # Three are more than there are.
        list(islice(chain(data, 8), 3))
