"""All or nothing: every step of every operation fails in turn, and so does the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pyvfio.errors import VfioError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory, FakeSource, Machine, divided
from virtiomem.device import BusyReason, DeviceBusy, RequestType, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination, ListenerDiverged, RamDiscardManager, Section
from virtiomem.runs import Run, intersect, subtract, union


@dataclass(frozen=True)
class Operation:
    """apply raises VfioError if it was refused. kind: of the request, if it is one."""

    apply: Callable[[Machine], object]
    kind: RequestType | None = None

    def run(self, machine: Machine) -> bool:
        """Whether it succeeded."""
        try:
            return self.apply(machine) is not ResponseType.BUSY
        except VfioError:
            return False


def newcomer(machine: Machine) -> FakeListener:
    known = [holder for holder in machine.memory.holders if holder.name == "newcomer"]
    return known[0] if known else machine.listener("newcomer")


OPERATIONS = {
    "plug": Operation(lambda machine: machine.plug(8, 5), RequestType.PLUG),
    "unplug": Operation(lambda machine: machine.unplug(3, 2), RequestType.UNPLUG),
    "unplug all": Operation(Machine.unplug_all, RequestType.UNPLUG_ALL),
    "system reset": Operation(lambda machine: machine.device.system_reset()),
    "register": Operation(lambda machine: machine.discards.register(newcomer(machine), machine.device.section)),
    "unregister": Operation(lambda machine: machine.discards.unregister(machine.listeners[-1])),
    "add source": Operation(lambda machine: machine.discards.add_source(FakeSource("other", BLOCK, divided([3, 20])))),
}
LISTENERS = [1, 2, 3]


def machine_with(listeners: int) -> Machine:
    """Blocks 2 to 4, 6 and 20 are plugged."""
    machine = Machine(listeners)
    for block, count in ((2, 3), (6, 1), (20, 1)):
        assert machine.plug(block, count) is ResponseType.ACK
    machine.faults.disarm()
    return machine


def steps_of(operation: Operation, listeners: int) -> int:
    machine = machine_with(listeners)
    assert operation.run(machine)
    return len(machine.faults.steps)


@pytest.mark.parametrize("listeners", LISTENERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_failure_changes_nothing_and_the_next_try_succeeds(name: str, listeners: int) -> None:
    operation = OPERATIONS[name]
    steps = steps_of(operation, listeners)
    assert steps > 0
    for step in range(steps):
        machine = machine_with(listeners)
        newcomer(machine)
        before = machine.state()
        machine.faults.arm(step)
        assert not operation.run(machine), f"step {step} failed unseen"
        assert machine.state() == before, f"after step {step}, {machine.faults.steps}"
        assert [kind for kind, _ in machine.heard.refused] == ([operation.kind] if operation.kind is not None else [])
        machine.faults.disarm()
        assert operation.run(machine)
        expect_mirrored(machine)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("listeners", LISTENERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_whose_undoing_fails_is_reported_and_repaired(name: str, listeners: int, half: bool) -> None:
    operation = OPERATIONS[name]
    for step in range(steps_of(operation, listeners)):
        machine = machine_with(listeners)
        for listener in (*machine.listeners, newcomer(machine)):
            listener.half = half
        plugged = machine.plugged()
        machine.faults.arm(every_from=step)
        assert not operation.run(machine)
        assert machine.plugged() == plugged
        expect_reported(machine)
        machine.faults.disarm()
        assert machine.plug(40) is ResponseType.ACK
        assert machine.discards.divergences == ()
        assert operation.run(machine)
        assert machine.unplug(40) is (ResponseType.ERROR if "all" in name or "reset" in name else ResponseType.ACK)
        expect_mirrored(machine)


def expect_mirrored(machine: Machine) -> None:
    """Populated and held is what is plugged."""
    assert machine.discards.divergences == ()
    assert machine.memory.populated == machine.plugged()
    populated = machine.discards.populated_runs(Run(0, machine.memory.size))
    for listener in machine.memory.holders:
        assert listener.held == (populated if machine.discards.sections(listener) else [])


def expect_reported(machine: Machine) -> None:
    """Held is what is plugged, but for what divergences say."""
    for listener in machine.memory.holders:
        wanted = machine.plugged() if machine.discards.sections(listener) else []
        reported = [divergence for divergence in machine.discards.divergences if divergence.listener == listener.name]
        stale = [divergence.section.run for divergence in reported if divergence.stale]
        missing = [divergence.section.run for divergence in reported if not divergence.stale]
        assert listener.held == union([*subtract(wanted, missing), *stale])
        assert not intersect(union(stale), wanted)
        assert not subtract(listener.held, machine.memory.populated), "held pages were discarded"


def test_rollback_is_complete_and_in_reverse() -> None:
    machine = Machine(3)
    machine.faults.arm(3)
    assert machine.plug(0, 4) is ResponseType.BUSY
    names = [f"listener {number}" for number in range(3)]
    assert machine.log == [*(f"populate {name}" for name in names), f"discard {names[1]}", f"discard {names[0]}"]
    assert machine.faults.steps[-1] == "memory.discard"


def test_blocks_that_a_listener_still_holds_are_not_plugged() -> None:
    machine = Machine(2)
    machine.faults.arm(2, every_from=3)
    assert machine.plug(0, 4) is ResponseType.BUSY
    assert [str(divergence) for divergence in machine.discards.divergences] == [
        "listener 0 still holds 0x1_0000_0000-0x1_007f_ffff (listener 0: injected [ENOMEM])"
    ]
    assert machine.plug(3, 1) is ResponseType.BUSY
    assert machine.heard.refused[-1] == (RequestType.PLUG, BusyReason.LISTENER_DIVERGED)
    machine.faults.disarm()
    assert machine.plug(3, 1) is ResponseType.ACK
    expect_mirrored(machine)


def test_blocks_elsewhere_work_on_while_a_listener_is_stuck() -> None:
    machine = Machine(2)
    machine.faults.arm(2, every_from=3)
    assert machine.plug(0, 4) is ResponseType.BUSY
    stuck = machine.listeners[0]
    machine.faults.fails = lambda step: machine.faults.steps[step] == f"{stuck.name}.discard"
    assert machine.plug(8, 4) is ResponseType.ACK
    assert stuck.held == [Run(0, 4 * BLOCK), Run(8 * BLOCK, 4 * BLOCK)]


@pytest.mark.parametrize("half", [False, True])
def test_what_a_listener_still_holds_goes_with_unplug_all(half: bool) -> None:
    machine = Machine()
    stuck, other = machine.listener("stuck"), machine.listener("other")
    machine.discards.register(stuck, Section(machine.memory, 0, ADDRESS, 4 * BLOCK))
    machine.discards.register(other, machine.device.section)
    assert machine.plug(20, 1) is ResponseType.ACK
    machine.faults.arm(2, every_from=3)
    assert machine.plug(0, 4) is ResponseType.BUSY
    stuck.half = half
    # repair() fails, then unplug all does.
    discards = 0

    def fails(step: int) -> bool:
        nonlocal discards
        discards += machine.faults.steps[step] == "stuck.discard"
        return machine.faults.steps[step] == "stuck.discard" and discards <= 2

    machine.faults.fails = fails
    assert machine.unplug_all() is ResponseType.BUSY
    assert [divergence.stale for divergence in machine.discards.divergences] == [True]
    assert stuck.held == [divergence.section.run for divergence in machine.discards.divergences]
    discards = 1
    assert machine.unplug_all() is ResponseType.ACK
    expect_mirrored(machine)
    machine.faults.disarm()
    assert machine.plug(0, 4) is ResponseType.ACK
    assert machine.faults.steps == ["memory.populate", "stuck.populate", "other.populate"]


def test_a_source_populates_nothing_that_a_listener_still_holds() -> None:
    memory = FakeMemory()
    discards = RamDiscardManager(memory)
    source = FakeSource()
    discards.add_source(source)
    first, second = (
        FakeListener(memory, "first", needs_memory=False),
        FakeListener(memory, "second", needs_memory=False),
    )
    for listener in (first, second):
        discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
    memory.faults.arm(every_from=1)
    for _ in range(2):
        with pytest.raises(ListenerDiverged, match="first still holds"):
            discards.populate(source, Run(0, BLOCK))
    with pytest.raises(ListenerDiverged, match="first still holds"):
        discards.remove_source(source)
    assert (first.held, second.held) == ([Run(0, BLOCK)], [])
    memory.faults.disarm()
    discards.remove_source(source)
    assert first.held == second.held == [Run(0, memory.size)]


def test_what_a_listener_lost_is_not_missing_once_a_source_discards_it() -> None:
    machine = machine_with(2)
    machine.faults.fails = lambda step: machine.faults.steps[step] in ("memory.discard", "listener 1.populate")
    assert machine.unplug(2, 3) is ResponseType.BUSY
    machine.discards.add_source(FakeSource("other", BLOCK, divided([20])))
    assert machine.discards.divergences == ()
    assert [listener.held for listener in machine.listeners] == [divided([20])] * 2


def test_what_a_listener_lost_can_be_unplugged_without_it() -> None:
    machine = machine_with(2)
    machine.faults.fails = lambda step: machine.faults.steps[step] in ("memory.discard", "listener 1.populate")
    assert machine.unplug(2, 3) is ResponseType.BUSY
    assert [divergence.stale for divergence in machine.discards.divergences] == [False]
    machine.faults.fails = lambda step: machine.faults.steps[step] == "listener 1.populate"
    assert machine.unplug(2, 3) is ResponseType.ACK
    machine.faults.disarm()
    expect_mirrored(machine)


def test_repair_says_what_is_left() -> None:
    machine = machine_with(1)
    machine.faults.arm(every_from=1)
    assert machine.unplug(2, 3) is ResponseType.BUSY
    assert len(machine.discards.repair()) == 1
    machine.faults.disarm()
    assert machine.discards.repair() == ()
    expect_mirrored(machine)


def test_a_listener_that_failed_to_register_and_to_let_go_is_not_forgotten() -> None:
    machine = machine_with(1)
    late = machine.listener("late")
    machine.faults.arm(every_from=1)
    with pytest.raises(ListenerDiverged, match="late still holds"):
        machine.discards.register(late, machine.device.section)
    assert machine.discards.holds(Run(0, machine.memory.size)) is True
    machine.faults.disarm()
    assert machine.discards.repair() == ()
    assert not late.held
    assert machine.discards.divergences == ()
    machine.discards.register(late, machine.device.section)
    expect_mirrored(machine)


def test_a_listener_that_fails_otherwise_is_rolled_back_too() -> None:
    machine = machine_with(2)

    class Broken(FakeListener):
        def populate(self, section: object, granularity: int) -> None:
            self.failed = True
            raise ZeroDivisionError(f"{section} {granularity}")

    broken = Broken(machine.memory)
    machine.discards.register(broken, Section(machine.memory, 40 * BLOCK, 0, BLOCK))
    with pytest.raises(ZeroDivisionError):
        machine.plug(40)
    machine.discards.unregister(broken)
    expect_mirrored(machine)


@pytest.mark.parametrize("step", [0, 1])
def test_a_device_that_cannot_start_leaves_nothing(step: int) -> None:
    memory = FakeMemory()
    memory.populate(0, memory.size)
    discards = RamDiscardManager(memory)
    coordination = DiscardCoordination()
    listener = FakeListener(memory)
    discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
    memory.faults.arm(step)

    def start() -> VirtioMem:
        return VirtioMem(memory, address=ADDRESS, block_size=memory.size, discards=discards, coordination=coordination)

    with pytest.raises(VfioError, match="injected"):
        start()
    assert listener.held == [Run(0, memory.size)]
    assert not coordination.required
    memory.faults.disarm()
    with start():
        assert (listener.held, memory.populated, coordination.required) == ([], [], True)


def test_a_close_that_failed_changes_nothing_and_can_be_tried_again() -> None:
    machine = machine_with(2)
    before = machine.state()
    for step in range(3):
        machine.faults.arm(step)
        with pytest.raises(DeviceBusy, match="injected"):
            machine.device.close()
        assert machine.state() == before
        assert not machine.device.closed
    machine.faults.disarm()
    machine.device.close()
    machine.device.close()
    assert machine.device.closed
    assert machine.plugged() == machine.listeners[0].held == machine.memory.populated == []
