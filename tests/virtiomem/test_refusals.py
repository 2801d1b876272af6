"""Why a request is refused: one code for the guest; a reason for the host, in counters, events and the log."""

from __future__ import annotations

import errno
import pickle

import pytest

from pyvfio import Container, Memory, MemoryKind
from pyvfio.drivers.edu import edu_addresses
from pyvfio.errors import MappingLimitReached
from pyvfio.sim import SimKernel
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, Machine, divided
from virtiomem.device import (
    BusyReason,
    DeviceBusy,
    ErrorReason,
    Events,
    NackReason,
    ProtocolViolation,
    RefusalReason,
    Request,
    RequestRefused,
    RequestType,
    Response,
    ResponseType,
    VirtioMem,
)
from virtiomem.discard import Section
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
TOO_MUCH = "0x120_0000 bytes would be plugged, and 0x100_0000 are requested"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((0,), BusyReason.NO_MEMORY),
        ((1,), BusyReason.MAPPING_REFUSED),
        ((2, 3), BusyReason.LISTENER_DIVERGED),
    ],
)
def test_every_busy_has_its_reason(steps: tuple[int, ...], reason: BusyReason) -> None:
    machine = Machine(2)
    machine.faults.arm(*steps)
    assert machine.plug(0, 4) is BUSY
    assert machine.heard.refused == [(PLUG, reason)]
    assert machine.device.statistics.refusals == {reason: 1}


@pytest.mark.parametrize(
    ("kind", "addr", "count", "reason", "text"),
    [
        (PLUG, BLOCK // 2, 1, ErrorReason.MISALIGNED, "no multiple of the block size 0x20_0000"),
        (UNPLUG, 0, 0, ErrorReason.NO_BLOCKS, "it names no block"),
        (STATE, 63 * BLOCK, 2, ErrorReason.NOT_USABLE, "the usable region is 0x800_0000 bytes from 0x1_0000_0000"),
        (STATE, -BLOCK, 1, ErrorReason.NOT_USABLE, "the usable region is 0x800_0000 bytes from 0x1_0000_0000"),
        (
            PLUG,
            8 * BLOCK,
            5,
            NackReason.REQUESTED_SIZE,
            TOO_MUCH,
        ),
        (PLUG, 3 * BLOCK, 2, ErrorReason.PLUGGED, "some of the blocks are plugged already"),
        (UNPLUG, 3 * BLOCK, 2, ErrorReason.UNPLUGGED, "some of the blocks are not plugged"),
    ],
)
def test_a_refusal_has_its_reason_wherever_one_looks(
    kind: RequestType, addr: int, count: int, reason: RefusalReason, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(1, requested=8, clock=lambda: 100.0)
    machine.plug(0, 4)
    before = machine.state()
    request = bytes(Request(kind, ADDRESS + addr, count))
    for _ in range(3):
        assert Response.parse(machine.device.handle(request)).type is reason.response
    assert machine.state() == before
    assert machine.heard.refused == [(kind, reason)] * 3
    assert machine.device.statistics.refusals == {reason: 3}
    (record,) = caplog.records
    blocks = f"{count} block{'' if count == 1 else 's'}"
    assert record.getMessage() == (
        f"virtio-mem answers {reason.response.name} ({reason.value}, 1 times so far): "
        f"{kind.name.lower()} of {blocks} at {ADDRESS + addr:#_x}: {text}"
    )


def test_refusals_are_logged_once_an_interval_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    machine = Machine(requested=4, clock=lambda: now[0])
    for now[0] in (100.0, 100.9, 101.0):
        for _ in range(50):
            assert machine.plug(0, 5) is NACK
            assert machine.unplug(0) is ERROR
            assert machine.plug(0, 0) is ERROR
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "virtio-mem answers NACK (requested size, 1 times so far)",
        "virtio-mem answers ERROR (unplugged, 1 times so far)",
        "virtio-mem answers ERROR (no blocks, 1 times so far)",
        "virtio-mem answers NACK (requested size, 101 times so far)",
        "virtio-mem answers ERROR (unplugged, 101 times so far)",
        "virtio-mem answers ERROR (no blocks, 101 times so far)",
    ]


@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("plug", NackReason.REQUESTED_SIZE, "too much"),
        RequestRefused("unplug", ErrorReason.UNPLUGGED),
        DeviceBusy("plug", BusyReason.NO_MEMORY, "none left"),
    ],
)
def test_a_refusal_can_be_pickled(error: RequestRefused) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.errno, copy.reason) == (type(error), str(error), error.errno, error.reason)


def test_mappings_used_up_are_a_reason_of_their_own() -> None:
    machine = Machine()

    class Full(FakeListener):
        def populate(self, section: Section, granularity: int) -> None:
            raise MappingLimitReached(errno.ENOSPC, f"map {section}", {"granularity": granularity})

    machine.discards.register(Full(machine.memory), machine.device.section)
    assert machine.plug(0) is BUSY
    assert machine.heard.refused == [(PLUG, BusyReason.NO_MAPPINGS_LEFT)]


@pytest.mark.parametrize("step", [0, 1])
def test_whoever_does_not_let_go_is_busy_too(step: int) -> None:
    machine = Machine(1)
    machine.plug(0, 4)
    machine.faults.arm(step)
    assert machine.unplug(0, 4) is BUSY
    assert machine.heard.refused == [(UNPLUG, BusyReason.DISCARD_FAILED)]


def test_statistics_are_a_snapshot() -> None:
    machine = Machine(requested=4)
    before = machine.device.statistics
    machine.plug(0, 4)
    machine.plug(8, 4)
    machine.plug(0, 0)
    assert machine.device.statistics.refusals == {NackReason.REQUESTED_SIZE: 1, ErrorReason.NO_BLOCKS: 1}
    assert machine.device.statistics.responses == {(PLUG, ACK): 1, (PLUG, NACK): 1, (PLUG, ERROR): 1}
    assert before.responses == {}


def test_size_events_are_rate_limited_and_the_last_value_is_delivered() -> None:
    now = [100.0]
    machine = Machine(clock=lambda: now[0])
    device, sizes = machine.device, machine.heard.sizes

    def due() -> float | None:
        return device.next_event_time

    for block in range(3):
        machine.plug(block)
    assert (sizes, due()) == ([BLOCK], 101.0)
    now[0] = 100.9
    device.flush_events()
    assert sizes == [BLOCK]
    now[0] = 101.0
    device.flush_events()
    assert (sizes, due()) == ([BLOCK, 3 * BLOCK], None)
    now[0] = 101.5
    machine.unplug(0)
    assert due() == 102.0
    now[0] = 103.0
    machine.unplug(1)
    assert (sizes, due()) == ([BLOCK, 3 * BLOCK, BLOCK], None)


def test_every_reason_is_logged_once_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    machine = Machine(1, clock=lambda: now[0])
    machine.plug(0, 4)
    machine.device.migrating = True
    for _ in range(1000):
        assert machine.unplug(0) is BUSY
        with pytest.raises(ProtocolViolation):
            machine.device.handle(b"")
        with pytest.raises(DeviceBusy):
            machine.device.system_reset()
    machine.device.migrating = False
    machine.faults.arm(0)
    assert machine.plug(8) is BUSY
    now[0] = 101.0
    machine.device.migrating = True
    assert machine.unplug(0) is BUSY
    assert [record.getMessage() for record in caplog.records] == [
        "virtio-mem is busy (migrating, 1 times so far): unplug: migrating",
        (
            "virtio-mem needs a reset: guest request: the guest broke the protocol: "
            "its request has 0 bytes instead of 24 [EPROTO]"
        ),
        "virtio-mem is busy (no memory, 1 times so far): plug: populate: injected [ENOMEM]",
        "virtio-mem is busy (migrating, 2001 times so far): unplug: migrating",
    ]
    assert {record.name for record in caplog.records} == {"virtiomem.device"}


def test_a_listener_that_diverged_is_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(1)
    machine.plug(0, 4)
    machine.faults.arm(every_from=1)
    assert machine.unplug(0, 4) is BUSY
    logged = [record.getMessage() for record in caplog.records if record.name == "virtiomem.discard"]
    assert logged == [
        (
            "discard: discard: injected [ENOMEM]; then listener 0 does not hold 0x1_0000_0000-0x1_007f_ffff "
            "(listener 0: injected [ENOMEM])"
        )
    ]


def test_what_a_stuck_listener_holds_counts_as_plugged() -> None:
    machine = Machine(2, requested=8)
    machine.faults.arm(2, every_from=3)
    assert machine.plug(0, 4) is BUSY
    machine.faults.fails = lambda step: machine.faults.steps[step] == "listener 0.discard"
    assert machine.plug(8, 5) is BUSY
    assert machine.heard.refused[-1] == (PLUG, BusyReason.LISTENER_DIVERGED)
    assert machine.plug(8, 4) is ACK
    assert machine.plug(12, 1) is BUSY
    assert sum(run.size for run in machine.listeners[0].held) == 8 * BLOCK
    machine.faults.disarm()
    assert machine.plug(12, 4) is ACK
    assert machine.listeners[0].held == divided(range(8, 16))


@pytest.mark.thorough
def test_a_tebibyte_in_16_mib_blocks_is_one_mapping_too_many() -> None:
    """The last block is refused with the limit and the block size that fits; all else stays, and comes off at once."""
    kernel = SimKernel(edu_devices=1, populate_on_pin=False, iova_ranges=[(0, (1 << 48) - 1)])
    size, block, address = 1 << 40, 16 << 20, 1 << 40
    heard = Failures()
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, size, kernel=kernel) as memory,
        VirtioMem(
            memory, address=address, block_size=block, requested_size=size, prealloc=False, events=heard
        ) as device,
    ):
        container.open_device(edu_addresses(kernel)[0])
        device.discards.register(DmaMapper(container), device.section)

        def ask(kind: RequestType, first: int = 0, count: int = 0) -> ResponseType:
            return Response.parse(device.handle(bytes(Request(kind, address + first * block, count)))).type

        assert ask(PLUG, 0, 65534) is ACK
        assert ask(PLUG, 65534, 2) is BUSY
        assert ask(PLUG, 65534, 1) is ACK
        assert ask(PLUG, 65535, 1) is BUSY
        assert heard.reasons == [BusyReason.NO_MAPPINGS_LEFT] * 2
        assert "holds 65535, and 0 are left of its limit" in heard.texts[-1]
        assert "This memory of 1 TiB fits with blocks of 32 MiB or more" in heard.texts[-1]
        assert device.plugged_runs == (Run(address, size - block),)
        assert len(kernel.containers[0].mappings) == container.mapping_count == 65535
        assert container.mappings_left == 0
        unmaps = container.calls.unmap
        assert ask(UNPLUG_ALL) is ACK
        assert (container.calls.unmap - unmaps, kernel.containers[0].mappings) == (1, ())


class Failures(Events):
    def __init__(self) -> None:
        self.reasons: list[RefusalReason] = []
        self.texts: list[str] = []

    def request_refused(self, request: Request, error: RequestRefused) -> None:  # noqa: ARG002 (the event's signature)
        self.reasons.append(error.reason)
        self.texts.append(str(error))
