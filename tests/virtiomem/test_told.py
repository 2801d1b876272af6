"""Between commit and answer nothing fails: who is told afterwards is told, and what he raises changes nothing."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from pyvfio.memory import Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, Machine
from tests.support.virtiomem.iommu import World
from virtiomem.device import (
    Config,
    DeviceBusy,
    Events,
    Request,
    RequestRefused,
    RequestType,
    Response,
    ResponseType,
    VirtioMem,
)
from virtiomem.discard import Section, Telling
from virtiomem.mapping import GuestDomain, GuestIommu, GuestMapping
from virtiomem.stand_in.stand_in import StandInGuest
from virtiomem.trace import RecordedVirtioMem

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


class Failing(Events):
    """Every event raises; told has those that came."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def config_changed(self, config: Config) -> None:
        self._fail(config.requested_size // BLOCK)

    def size_changed(self, plugged_size: int) -> None:
        self._fail(plugged_size // BLOCK)

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        self._fail((request.type, error.reason.response))

    def _fail(self, what: object) -> None:
        self.told.append(what)
        raise BrokenPipeError(errno.EPIPE, "nobody listens")


def machine() -> tuple[Machine, Failing]:
    made, failing = Machine(1, event_interval=0.0), Failing()
    device = VirtioMem(
        made.memory,
        address=ADDRESS,
        block_size=BLOCK,
        requested_size=made.memory.size,
        events=failing,
        event_interval=0.0,
        discards=made.discards,
    )
    made.device.close()
    made.device = device
    return made, failing


STEPS: dict[str, tuple[Callable[[Machine], object], object, object]] = {
    "plug": (lambda made: made.plug(0, 4), ACK, 4),
    "unplug": (lambda made: made.unplug(2, 1), ACK, 1),
    "unplug all": (Machine.unplug_all, ACK, 0),
    "plug what is plugged": (lambda made: made.plug(2, 1), ERROR, (PLUG, ERROR)),
    "resize": (lambda made: made.device.resize(7 * BLOCK), None, 7),
    "system reset": (lambda made: made.device.system_reset(), None, 0),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_event_that_raises_changes_no_answer(name: str) -> None:
    made, failing = machine()
    if name != "plug":
        assert made.plug(2, 2) is ACK
    failing.told.clear()
    before = made.device.statistics.failures_to_tell
    step, answer, told = STEPS[name]
    assert step(made) is answer
    assert failing.told == [told]
    assert made.device.statistics.failures_to_tell == before + 1
    assert made.device.config.plugged_size == sum(run.size for run in made.plugged())
    assert made.listeners[0].held == made.memory.populated == made.plugged()
    made.device.close()


def test_a_state_that_was_loaded_is_loaded_though_the_event_raises() -> None:
    source, _ = machine()
    source.plug(3, 2)
    target, failing = machine()
    target.device.load(source.device.save())
    assert target.plugged() == source.plugged() == target.listeners[0].held
    assert failing.told == [2, 64]
    for made in (source, target):
        made.device.close()


def test_a_busy_reset_says_so_though_the_clock_fails() -> None:
    made = Machine(1, clock=lambda: 1 / 0)
    assert made.plug(0, 2) is ACK
    made.device.migrating = True
    with pytest.raises(DeviceBusy, match="migrating"):
        made.device.system_reset()
    made.device.migrating = False
    assert made.unplug(0, 2) is ACK
    assert made.plugged() == made.listeners[0].held == []


class Deaf(FakeListener):
    """discarded() raises; told has the sections."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[Section] = []

    def discarded(self, section: Section) -> None:
        super().discarded(section)
        self.told.append(section)
        raise ZeroDivisionError


def test_every_listener_is_told_of_a_discard_whoever_raises() -> None:
    made = Machine()
    listeners = [Deaf(made.memory, name) for name in "abc"]
    for listener in listeners:
        made.discards.register(listener, made.device.section)
    assert made.plug(0, 4) is ACK
    assert made.unplug(1, 2) is ACK
    assert made.unplug(1, 2) is ERROR
    assert [[section.size for section in listener.told] for listener in listeners] == [[2 * BLOCK]] * 3
    assert made.device.statistics.failures_to_tell == 3
    made.discards.unregister(listeners[0])
    assert listeners[0].held == []
    assert len(listeners[0].told) == 2


def test_a_revocation_that_is_not_heard_is_one_all_the_same() -> None:
    with ExitStack() as stack:
        world = World(stack)
        told: list[GuestMapping] = []

        def boom(_: GuestDomain, mappings: Sequence[GuestMapping]) -> None:
            told.extend(mappings)
            raise OSError(errno.EPIPE, "the event queue is gone")

        world.iommu.close()
        iommu = stack.enter_context(
            GuestIommu(
                world.device.discards,
                world.device.section,
                max_bytes=16 * BLOCK,
                max_mappings=8,
                revoked=boom,
                unmapped=boom,
            )
        )
        domain = iommu.open_domain()
        domain.join(world.spaces[0])
        domain.map(0, ADDRESS, 4096)
        domain.map(4096, ADDRESS + BLOCK, 4096)
        assert world.unplug(0) is ACK
        assert domain.unmap(4096, 4096) == 4096
        assert world.unplug(0) is ERROR
        assert [mapping.iova for mapping in told] == [0, 4096]
        assert iommu.failures_to_tell == 2
        assert domain.mappings == world.spaces[0].held() == ()


def test_a_trace_whose_file_was_closed_ends_and_changes_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    file = io.StringIO()
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK) as memory,
        RecordedVirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=4 * BLOCK) as device,
    ):
        device.record(file)
        file.close()
        assert Response.parse(device.handle(bytes(Request(PLUG, ADDRESS, 1)))).type is ACK
        assert device.plugged_size == BLOCK
    assert "the trace ends here" in caplog.text


def test_a_stand_in_goes_on_though_nobody_wants_to_hear_of_it() -> None:
    made = Machine(1)
    with StandInGuest(made.device, lambda: 1 / 0) as guest:
        for _ in range(1000):
            if made.device.plugged_size == made.memory.size and guest.state == "stand-in: idle":
                break
            made.faults.disarm()
            threading.Event().wait(0.01)
        assert made.device.plugged_size == made.memory.size
        made.device.resize(0)
        guest.config_changed()
        for _ in range(1000):
            if not made.device.plugged_size:
                break
            threading.Event().wait(0.01)
    assert made.device.plugged_size == 0


def test_failures_are_logged_at_the_first_second_fourth_and_eighth(caplog: pytest.LogCaptureFixture) -> None:
    telling = Telling("somebody")
    for _ in range(100):
        telling.tell(lambda: 1 / 0)
    assert telling.failures == 100
    assert len(caplog.records) == 7
    with pytest.raises(KeyboardInterrupt):
        telling.tell(_interrupt)


def _interrupt() -> None:
    raise KeyboardInterrupt
