"""Random requests, listeners that come and go, and random failures, beside a set of blocks."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyvfio.errors import VfioError
from tests.support.thorough import examples
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, Machine, divided
from virtiomem.device import DeviceBusy, ResponseType
from virtiomem.discard import Section
from virtiomem.runs import Run, intersect, subtract, union

BLOCKS = 24
BLOCK_NUMBER = st.integers(0, BLOCKS - 1)
COUNT = st.integers(0, 8)
FAILING = st.one_of(st.none(), st.tuples(st.integers(0, 8), st.booleans()))


class DeviceModel(RuleBasedStateMachine):
    """plugged and requested are what the guest must see; faults decides what fails in the next operation."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(blocks=BLOCKS)
        self.plugged: set[int] = set()
        self.requested = BLOCKS
        self.joined: dict[FakeListener, Section] = {}
        self.sequence = 0
        self.left: list[Run] = []

    def teardown(self) -> None:
        self.machine.faults.disarm()
        self.machine.device.migrating = False
        assert self.machine.discards.repair() == ()
        self.machine.device.close()
        assert self.machine.memory.populated == []
        assert all(not listener.held for listener in self.machine.memory.holders)

    @initialize(half=st.lists(st.booleans(), max_size=3))
    def start(self, half: list[bool]) -> None:
        for each in half:
            self.join(0, BLOCKS, each, None)

    def arm(self, failing: tuple[int, bool] | None) -> None:
        self.machine.faults.disarm()
        if failing is not None:
            step, onwards = failing
            self.machine.faults.arm(step, every_from=step if onwards else None)

    @property
    def disturbed(self) -> bool:
        """Whether something failed, or is still to be repaired."""
        faults = self.machine.faults
        return any(faults.fails(step) for step in range(len(faults.steps))) or bool(self.machine.discards.divergences)

    def expect(self, answer: ResponseType, expected: ResponseType) -> bool:
        """Whether it was acknowledged. BUSY is right only if something went wrong."""
        if answer is ResponseType.BUSY and expected is ResponseType.ACK:
            assert self.disturbed or self.machine.device.migrating or self.machine.heard.refused
            return False
        assert answer is expected
        return answer is ResponseType.ACK

    @rule(block=BLOCK_NUMBER, count=COUNT, failing=FAILING)
    def plug(self, block: int, count: int, failing: tuple[int, bool] | None) -> None:
        blocks = set(range(block, block + count))
        expected = ResponseType.ACK
        if not self.usable(block, count):
            expected = ResponseType.ERROR
        elif len(self.plugged) + count > self.requested:
            expected = ResponseType.NACK
        elif blocks & self.plugged:
            expected = ResponseType.ERROR
        self.arm(failing)
        if self.expect(self.machine.plug(block, count), expected):
            self.plugged |= blocks

    @rule(block=BLOCK_NUMBER, count=COUNT, failing=FAILING)
    def unplug(self, block: int, count: int, failing: tuple[int, bool] | None) -> None:
        blocks = set(range(block, block + count))
        right = self.usable(block, count) and blocks <= self.plugged
        self.arm(failing)
        if self.expect(self.machine.unplug(block, count), ResponseType.ACK if right else ResponseType.ERROR):
            self.plugged -= blocks

    @rule(failing=FAILING)
    def unplug_all(self, failing: tuple[int, bool] | None) -> None:
        self.arm(failing)
        if self.expect(self.machine.unplug_all(), ResponseType.ACK):
            self.plugged.clear()

    @rule(failing=FAILING)
    def system_reset(self, failing: tuple[int, bool] | None) -> None:
        self.arm(failing)
        try:
            self.machine.device.system_reset()
            self.plugged.clear()
        except DeviceBusy:
            assert self.disturbed or self.machine.device.migrating

    @rule(requested=st.integers(0, BLOCKS))
    def resize(self, requested: int) -> None:
        self.machine.device.resize(requested * BLOCK)
        self.requested = requested

    @rule(on=st.booleans())
    def migrate(self, on: bool) -> None:
        self.machine.device.migrating = on

    @rule(block=BLOCK_NUMBER, count=st.integers(1, BLOCKS), half=st.booleans(), failing=FAILING)
    def join(self, block: int, count: int, half: bool, failing: tuple[int, bool] | None) -> None:
        self.sequence += 1
        listener = self.machine.listener(f"listener {self.sequence}")
        listener.half = half
        count = min(count, BLOCKS - block)
        section = Section(self.machine.memory, block * BLOCK, ADDRESS, count * BLOCK)
        self.arm(failing)
        try:
            self.machine.discards.register(listener, section)
            self.joined[listener] = section
        except VfioError:
            assert self.disturbed

    @rule(data=st.data(), failing=FAILING)
    def leave(self, data: Any, failing: tuple[int, bool] | None) -> None:
        if not self.joined:
            return
        listener = data.draw(st.sampled_from(list(self.joined)))
        self.arm(failing)
        try:
            self.machine.discards.unregister(listener)
            del self.joined[listener]
        except VfioError:
            assert self.disturbed

    def usable(self, block: int, count: int) -> bool:
        return count > 0 and (block + count) * BLOCK <= self.machine.device.config.usable_region_size

    @invariant()
    def held_is_plugged(self) -> None:
        """But for what divergences say."""
        machine = self.machine
        assert machine.plugged() == divided(sorted(self.plugged))
        divergences = machine.discards.divergences
        for listener in machine.memory.holders:
            section = self.joined.get(listener)
            wanted = intersect(machine.plugged(), [section.run]) if section else []
            stale = [each.section.run for each in divergences if each.listener == listener.name and each.stale]
            missing = [each.section.run for each in divergences if each.listener == listener.name and not each.stale]
            assert not subtract(missing, wanted)
            assert not intersect(union(stale), wanted)
            assert listener.held == union([*subtract(wanted, missing), *stale])
            assert not subtract(listener.held, machine.memory.populated)

    @invariant()
    def populated_is_plugged(self) -> None:
        """But for what a failure left, which does not grow without another one."""
        machine = self.machine
        assert not subtract(machine.plugged(), machine.memory.populated)
        left = subtract(machine.memory.populated, machine.plugged())
        if not self.disturbed:
            assert not subtract(left, self.left)
        self.left = left


TestDevice = DeviceModel.TestCase
TestDevice.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
