"""GuestIommu: random calls with failures, beside a model of what the guest must believe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvfio.dma import Access
from pyvfio.errors import VfioError
from tests.support.thorough import examples
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.iommu import FaultySpace, World, expected_of
from virtiomem.device import RequestType, ResponseType
from virtiomem.mapping import GuestMapping

ACK, NACK, BUSY, ERROR = ResponseType
READ_WRITE = Access.READ_WRITE
IOVA_PAGES, MODEL_BLOCKS, BOOT_BLOCKS = 24, 6, 2
STEP = BLOCK // 4
FAILING = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 3), st.booleans()))
DOMAINS = st.integers(0, 1)


def blocks_of(mapping: GuestMapping) -> set[int]:
    """The blocks of the region that it lies in."""
    end = mapping.address + mapping.size
    return set(range(max(mapping.address - ADDRESS, 0) // BLOCK, max(-(-(end - ADDRESS) // BLOCK), 0)))


class IommuModel(RuleBasedStateMachine):
    """mapped: what the guest must believe, by domain; failures may leave an address space with less, and only if
    reported."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world = World(self.stack, spaces=2, boot_blocks=BOOT_BLOCKS, max_bytes=10 * BLOCK, max_mappings=8)
        self.domains = [self.world.domain, self.world.iommu.open_domain()]
        self.mapped: list[dict[int, GuestMapping]] = [{}, {}]
        self.plugged = {0, 1, 2, 3}
        self.joined: list[list[FaultySpace]] = [list(self.world.spaces), []]
        self.count = 2
        self.disturbed = False
        self.join(1, False, None)
        for domain, page, unit in ((0, 0, 0), (0, 4, -1), (0, 8, -5), (0, 12, 6), (1, 0, 7)):
            self.map(domain, page, unit, 2, None)

    def teardown(self) -> None:
        self.world.faults.disarm()
        self.stack.close()
        assert all(space.mappings() == () for joined in self.joined for space in joined)

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
            # One failure changes nothing: undoing it has not failed.
            self.disturbed |= sum(faults.fails(step) for step in range(len(faults.steps))) > 1
            faults.disarm()

    def all_mapped(self) -> list[GuestMapping]:
        return [mapping for mapped in self.mapped for mapping in mapped.values()]

    @rule(
        domain=DOMAINS,
        page=st.integers(0, IOVA_PAGES),
        unit=st.integers(-4 * BOOT_BLOCKS - 1, 4 * MODEL_BLOCKS),
        count=st.integers(1, 5),
        failing=FAILING,
    )
    def map(self, domain: int, page: int, unit: int, count: int, failing: tuple[int, bool] | None) -> None:
        mapping = GuestMapping(page * STEP, ADDRESS + unit * STEP, count * STEP, READ_WRITE)
        mapped = self.mapped[domain]
        parts = 2 if unit < 0 < unit + count else 1
        used = sum(len(each.parts) for each in self.all_mapped())
        allowed = (
            unit >= -4 * BOOT_BLOCKS
            and blocks_of(mapping) <= self.plugged
            and not any(other.iova < mapping.end and mapping.iova < other.end for other in mapped.values())
            and used + parts <= 8
            and sum(other.size for other in self.all_mapped()) + mapping.size <= 10 * BLOCK
        )
        done = self.attempt(failing, lambda: self.domains[domain].map(mapping.iova, mapping.address, mapping.size))
        assert done <= allowed
        assert done or not allowed or failing
        there = {each.iova: each for each in self.domains[domain].mappings}
        if done or (allowed and there.get(mapping.iova) == mapping):
            mapped[mapping.iova] = there[mapping.iova]

    @rule(domain=DOMAINS, page=st.integers(0, IOVA_PAGES), count=st.integers(1, 24), failing=FAILING)
    def unmap(self, domain: int, page: int, count: int, failing: tuple[int, bool] | None) -> None:
        start, end = page * STEP, (page + count) * STEP
        mapped = self.mapped[domain]
        touched = [each for each in mapped.values() if each.iova < end and start < each.end]
        allowed = all(start <= each.iova and each.end <= end for each in touched)
        done = self.attempt(failing, lambda: self.domains[domain].unmap(start, end - start))
        assert done <= allowed
        assert done or not allowed or failing
        if done:
            for each in touched:
                del mapped[each.iova]

    @rule(block=st.integers(0, MODEL_BLOCKS - 1), count=st.integers(1, 3), failing=FAILING)
    def unplug(self, block: int, count: int, failing: tuple[int, bool] | None) -> None:
        if self.attempt(failing, lambda: self.world.unplug(block, count)):
            gone = set(range(block, block + count))
            assert gone <= self.plugged
            self.plugged -= gone
            for mapped in self.mapped:
                for each in list(mapped.values()):
                    if blocks_of(each) & gone:
                        del mapped[each.iova]

    @rule(block=st.integers(0, MODEL_BLOCKS - 1), count=st.integers(1, 3))
    def plug(self, block: int, count: int) -> None:
        if self.attempt(None, lambda: self.world.ask(RequestType.PLUG, block, count)):
            self.plugged |= set(range(block, block + count))

    @rule(domain=DOMAINS, short=st.booleans(), failing=FAILING)
    def join(self, domain: int, short: bool, failing: tuple[int, bool] | None) -> None:
        if len(self.joined[domain]) == 3:
            return
        space = FaultySpace(self.count, self.world.faults, short=short)
        self.count += 1
        if self.attempt(failing, lambda: self.domains[domain].join(space)) or space.mappings():
            self.joined[domain].append(space)

    @rule(domain=DOMAINS, number=st.integers(0, 2), failing=FAILING)
    def leave(self, domain: int, number: int, failing: tuple[int, bool] | None) -> None:
        joined = self.joined[domain]
        if number < len(joined) and self.attempt(failing, lambda: self.domains[domain].leave(joined[number])):
            assert joined.pop(number).mappings() == ()

    @rule(domain=DOMAINS, seldom=st.integers(0, 3), failing=FAILING)
    def close(self, domain: int, seldom: int, failing: tuple[int, bool] | None) -> None:
        if not seldom and self.attempt(failing, self.domains[domain].close):
            assert not any(space.mappings() for space in self.joined[domain])
            self.mapped[domain], self.joined[domain] = {}, []
            self.domains[domain] = self.world.iommu.open_domain()

    @rule()
    def repair(self) -> None:
        """Where nothing fails any more, nothing stays amiss."""
        self.world.faults.disarm()
        assert self.world.iommu.repair() == ()
        self.disturbed = False

    @invariant()
    def every_address_space_holds_what_the_guest_mapped(self) -> None:
        for domain, mapped, joined in zip(self.domains, self.mapped, self.joined, strict=True):
            assert {mapping.iova: mapping for mapping in domain.mappings} == mapped
            assert list(domain.spaces) == joined
            expected = set(expected_of(domain))
            for space in joined:
                held = set(space.mappings())
                assert held <= expected
                assert held == expected or self.disturbed
            for mapping in mapped.values():
                assert blocks_of(mapping) <= self.plugged

    @invariant()
    def what_address_spaces_lack_is_told(self) -> None:
        complete = all(
            set(space.mappings()) == set(expected_of(domain))
            for domain, joined in zip(self.domains, self.joined, strict=True)
            for space in joined
        )
        assert complete == (self.world.iommu.divergences == ())


TestIommu = IommuModel.TestCase
TestIommu.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
