"""VirtioMem: the rules of virtio-mem, row by row as QEMU has them. What fails below it is in test_transactions.py."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pyvfio.errors import ClosedError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory, Machine, divided
from virtiomem.device import (
    BlockState,
    BusyReason,
    DeviceBusy,
    Feature,
    ProtocolViolation,
    Request,
    RequestType,
    Response,
    ResponseType,
    VirtioMem,
)
from virtiomem.discard import RamDiscardManager, Section
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
PLUGGED, UNPLUGGED, MIXED = BlockState


@pytest.mark.parametrize("migrating", [False, True])
@pytest.mark.parametrize(
    ("kind", "block", "count", "answer"),
    [
        (PLUG, 8, 4, ACK),
        (PLUG, 8, 0, ERROR),
        (PLUG, 0.5, 1, ERROR),
        (PLUG, -1, 1, ERROR),
        (PLUG, 160, 1, ERROR),
        (PLUG, 159, 2, ERROR),
        (PLUG, 8, 29, NACK),
        (PLUG, 0, 29, NACK),
        (PLUG, 8, 28, ACK),
        (PLUG, 140, 29, ERROR),
        (PLUG, 0, 1, ERROR),
        (PLUG, 3, 2, ERROR),
        (UNPLUG, 0, 4, ACK),
        (UNPLUG, 1, 2, ACK),
        (UNPLUG, 3, 2, ERROR),
        (UNPLUG, 8, 1, ERROR),
        (UNPLUG, 0, 0, ERROR),
        (UNPLUG, 160, 1, ERROR),
        (STATE, 0, 4, PLUGGED),
        (STATE, 4, 156, UNPLUGGED),
        (STATE, 3, 2, MIXED),
        (STATE, 0, 161, ERROR),
        (STATE, 0, 0, ERROR),
        (STATE, 0.25, 1, ERROR),
        (UNPLUG_ALL, 0.3, 77, ACK),
    ],
)
def test_answers(
    kind: RequestType, block: float, count: int, answer: ResponseType | BlockState, migrating: bool
) -> None:
    """1 GiB of 2 MiB blocks, the first four plugged, 32 requested, so 160 usable."""
    machine = Machine(blocks=512, requested=32)
    machine.plug(0, 4)
    machine.device.migrating = migrating
    request = Request(kind, ADDRESS + int(block * BLOCK), count)
    response = Response.parse(machine.device.handle(bytes(request)))
    if isinstance(answer, BlockState):
        assert response == Response(ACK, answer)
    elif migrating and answer is ACK:
        assert response.type is BUSY
        assert machine.heard.refused == [(kind, BusyReason.MIGRATING)]
    else:
        assert response == Response(answer)


def test_addresses_do_not_wrap() -> None:
    machine = Machine(blocks=64)
    request = Request(PLUG, (1 << 64) - BLOCK, 2)
    assert Response.parse(machine.device.handle(bytes(request))).type is ERROR


def test_unplug_all_with_nothing_plugged_is_fine_while_migrating_and_calls_nobody() -> None:
    machine = Machine(1, requested=2)
    machine.device.migrating = True
    machine.device.resize(0)
    assert machine.unplug_all() is ACK
    assert machine.faults.steps == []
    assert machine.device.config.usable_region_size == 0


def test_device_reset_keeps_blocks_and_system_reset_does_not() -> None:
    machine = Machine(1)
    machine.device.negotiate(Feature.UNPLUGGED_INACCESSIBLE)
    machine.plug(0, 4)
    machine.device.device_reset()
    assert machine.device.negotiated == 0
    assert machine.listeners[0].held == machine.plugged() == divided(range(4))
    machine.device.system_reset()
    assert machine.listeners[0].held == machine.plugged() == machine.memory.populated == []
    assert machine.listeners[0].calls[-1] == ("discard", ADDRESS, 64 * BLOCK)


def test_system_reset_while_migrating_keeps_everything_and_says_so() -> None:
    machine = Machine(1, requested=4)
    machine.plug(0, 4)
    machine.device.resize(0)
    machine.device.migrating = True
    with pytest.raises(DeviceBusy, match="system reset: migrating") as refused:
        machine.device.system_reset()
    assert refused.value.reason is BusyReason.MIGRATING
    assert machine.device.config.plugged_size == 4 * BLOCK
    assert machine.ask(STATE, 0, 4).state == PLUGGED
    machine.device.migrating = False
    machine.device.system_reset()
    assert machine.device.config.plugged_size == 0


def broken(machine: Machine) -> bool:
    return machine.device.broken


@pytest.mark.parametrize("reset", [VirtioMem.device_reset, VirtioMem.system_reset])
def test_a_violation_breaks_the_device_until_a_reset(reset: Callable[[VirtioMem], None]) -> None:
    machine = Machine(requested=8)
    machine.plug(0, 1)
    with pytest.raises(ProtocolViolation, match="unknown type"):
        machine.device.handle(b"\x09" + bytes(23))
    assert broken(machine)
    with pytest.raises(ProtocolViolation, match="not reset the device since"):
        machine.plug(1)
    assert machine.device.config.plugged_size == BLOCK
    reset(machine.device)
    assert not broken(machine)
    assert machine.plug(2) is ACK
    assert machine.device.statistics.violations == 1


def test_a_device_starts_empty() -> None:
    memory = FakeMemory()
    memory.populate(0, memory.size)
    with VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size) as device:
        assert memory.populated == []
        assert device.config.plugged_size == 0


def test_a_region_in_a_part_of_the_memory() -> None:
    memory = FakeMemory()
    memory.populate(0, memory.size)
    listener = FakeListener(memory)
    options = {"region_offset": 8 * BLOCK, "region_size": 16 * BLOCK, "requested_size": 16 * BLOCK}
    with VirtioMem(memory, address=ADDRESS, block_size=BLOCK, **options) as device:  # type: ignore[arg-type]
        device.discards.register(listener, device.section)
        device.handle(bytes(Request(PLUG, ADDRESS + BLOCK, 2)))
        assert memory.populated == [Run(0, 8 * BLOCK), Run(9 * BLOCK, 2 * BLOCK), Run(24 * BLOCK, 40 * BLOCK)]
        assert listener.calls == [("populate", ADDRESS + BLOCK, 2 * BLOCK)]
        assert device.populated_runs(Run(0, memory.size)) == [Run(9 * BLOCK, 2 * BLOCK)]
        assert device.plugged_runs == (Run(ADDRESS + BLOCK, 2 * BLOCK),)
        assert not device.discards.is_populated(0, 24 * BLOCK)


def test_two_devices_share_a_memory_and_its_manager() -> None:
    memory = FakeMemory()
    discards = RamDiscardManager(memory)
    listener = FakeListener(memory)
    half = memory.size // 2
    low, high = (
        VirtioMem(
            memory,
            address=ADDRESS + offset,
            block_size=BLOCK,
            requested_size=half,
            region_offset=offset,
            region_size=half,
            discards=discards,
            name=f"virtio-mem at {offset}",
        )
        for offset in (0, half)
    )
    with low, high:
        discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
        low.handle(bytes(Request(PLUG, ADDRESS, 32)))
        high.handle(bytes(Request(PLUG, ADDRESS + half, 3)))
        assert listener.held == [Run(0, half + 3 * BLOCK)]
        low.system_reset()
        assert listener.held == memory.populated == [Run(half, 3 * BLOCK)]
    assert listener.held == []


def test_ordinary_requests_are_one_call_for_each_listener() -> None:
    machine = Machine(3)
    machine.plug(0, 50)
    machine.unplug(10, 30)
    for listener in machine.listeners:
        assert listener.calls == [
            ("populate", ADDRESS, 50 * BLOCK),
            ("discard", ADDRESS + 10 * BLOCK, 30 * BLOCK),
        ]


def test_unplug_all_is_one_discard_of_the_whole_section_where_anything_is_held() -> None:
    machine = Machine(1)
    idle = machine.listener("idle")
    machine.discards.register(idle, Section(machine.memory, 60 * BLOCK, 0, 4 * BLOCK))
    for block in range(0, 40, 2):
        machine.plug(block)
    machine.unplug_all()
    assert machine.listeners[0].calls[20:] == [("discard", ADDRESS, 64 * BLOCK)]
    assert idle.calls == []


def test_closing_gives_everything_back_once() -> None:
    machine = Machine(2)
    machine.plug(3, 5)
    machine.device.migrating = True
    machine.device.close()
    machine.device.close()
    assert machine.memory.populated == []
    assert [listener.held for listener in machine.listeners] == [[], []]
    with pytest.raises(ClosedError):
        machine.plug(0)
    machine.discards.unregister(machine.listeners[0])


def test_a_guest_that_wakes_up_finds_its_memory() -> None:
    machine = Machine(1, persistent_suspend=True)
    machine.plug(0, 4)
    machine.device.negotiate(Feature.UNPLUGGED_INACCESSIBLE | Feature.PERSISTENT_SUSPEND)
    machine.device.wake_up()
    assert machine.listeners[0].held == machine.plugged() == divided(range(4))
    assert machine.device.negotiated == 0


def test_65536_blocks() -> None:
    machine = Machine(1, blocks=65536)
    listener = machine.listeners[0]
    for start in range(0, 65536, 16384):
        assert machine.plug(start, 16384) is ACK
    assert listener.held == [Run(0, 65536 * BLOCK)]
    for block in range(1, 512, 2):
        assert machine.unplug(block) is ACK
    assert len(machine.device.plugged_runs) == 257
    assert machine.ask(STATE, 0, 65535).state == MIXED
    assert machine.unplug_all() is ACK
    assert listener.calls[-1] == ("discard", ADDRESS, 65536 * BLOCK)


def test_threads_share_a_device() -> None:
    machine = Machine(1)

    def work(first: int) -> None:
        for _ in range(20):
            assert machine.plug(first, 8) is ACK
            assert machine.unplug(first, 8) is ACK
        machine.plug(first, 4)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 64, 16)]
    for thread in threads:
        thread.start()
    late = machine.listener("late")
    machine.discards.register(late, machine.device.section)
    for thread in threads:
        thread.join()
    expected = divided([first + block for first in range(0, 64, 16) for block in range(4)])
    assert machine.plugged() == late.held == machine.listeners[0].held == machine.memory.populated == expected
