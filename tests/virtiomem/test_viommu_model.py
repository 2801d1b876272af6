"""GuestIommu: random calls with failures, beside a model of what the guest must believe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvfio.dma import Access
from pyvfio.errors import VfioError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.iommu import FaultySpace, World
from virtiomem.device import RequestType, ResponseType
from virtiomem.mapping import GuestMapping

ACK, NACK, BUSY, ERROR = ResponseType
READ_WRITE = Access.READ_WRITE
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
        start, size = unit * STEP, count * STEP
        mapping = GuestMapping(page * STEP, ADDRESS + start, size, READ_WRITE)
        blocks = set(range(start // BLOCK, -(-(start + size) // BLOCK)))
        allowed = (
            blocks <= self.plugged
            and not any(other.iova < mapping.end and mapping.iova < other.end for other in self.mapped.values())
            and len(self.mapped) < 8
            and sum(other.size for other in self.mapped.values()) + mapping.size <= 10 * BLOCK
        )
        done = self.attempt(failing, lambda: self.world.map(mapping.iova, start, size))
        assert done <= allowed
        assert done or not allowed or failing
        if done or (allowed and mapping in self.world.domain.mappings):
            self.mapped[mapping.iova] = mapping

    @rule(page=st.integers(0, IOVA_PAGES), count=st.integers(1, 24), failing=FAILING)
    def unmap(self, page: int, count: int, failing: tuple[int, bool] | None) -> None:
        start, end = page * STEP, (page + count) * STEP
        touched = [each for each in self.mapped.values() if each.iova < end and start < each.end]
        allowed = all(start <= each.iova and each.end <= end for each in touched)
        done = self.attempt(failing, lambda: self.world.domain.unmap(start, end - start))
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
                start = each.address - ADDRESS
                if any(start < (one + 1) * BLOCK and one * BLOCK < start + each.size for one in gone):
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
        if self.attempt(failing, lambda: self.world.domain.join(space)) or space.held():
            self.joined.append(space)

    @rule(number=st.integers(0, 2), failing=FAILING)
    def leave(self, number: int, failing: tuple[int, bool] | None) -> None:
        if number < len(self.joined) and self.attempt(failing, lambda: self.world.domain.leave(self.joined[number])):
            assert self.joined.pop(number).held() == ()

    @invariant()
    def every_address_space_holds_what_the_guest_mapped(self) -> None:
        assert {mapping.iova: mapping for mapping in self.world.domain.mappings} == self.mapped
        for space in self.joined:
            held = set(space.held())
            assert held <= set(self.mapped.values())
            assert held == set(self.mapped.values()) or self.disturbed
        for mapping in self.mapped.values():
            assert self.world.device.discards.is_populated(mapping.address - ADDRESS, mapping.size)


TestIommu = IommuModel.TestCase
TestIommu.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
