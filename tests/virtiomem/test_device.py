"""VirtioMem: the rules of virtio-mem, row by row as QEMU has them. What fails below it is in test_transactions.py."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pyvfio.errors import ClosedError, InvalidArgument
from pyvfio.kernel import transparent_huge_page_size
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, MIB, FakeListener, FakeMemory, Machine, divided
from virtiomem.device import (
    BlockState,
    BusyReason,
    DeviceBusy,
    Feature,
    FeaturesRefused,
    ProtocolViolation,
    Request,
    RequestType,
    Response,
    ResponseType,
    VirtioMem,
    check_block_size,
    check_region,
    default_block_size,
    usable_region_size,
)
from virtiomem.discard import RamDiscardManager, Section
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
PLUGGED, UNPLUGGED, MIXED = BlockState
GIB = 1 << 30


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


@pytest.mark.parametrize(
    ("requested", "usable"),
    [(64, 0x14000000), (2, 0x10200000), (600, 0x35800000), (1024, 0x40000000), (0, 0)],
)
def test_usable_region_at_start(requested: int, usable: int) -> None:
    assert Machine(blocks=512, requested=requested // 2).device.config.usable_region_size == usable
    assert usable_region_size(GIB, requested * MIB, BLOCK, 256 * MIB) == usable


def test_usable_region_is_rounded_up_to_blocks() -> None:
    assert usable_region_size(4 * GIB, 512 * MIB, 512 * MIB, 256 * MIB) == GIB


def test_usable_region_grows_on_resize_and_shrinks_on_unplug_all_and_system_reset() -> None:
    machine = Machine(blocks=512, requested=512)
    device = machine.device
    for shrink in (machine.unplug_all, device.system_reset):
        device.resize(GIB)
        device.resize(64 * MIB)
        assert device.config.usable_region_size == GIB
        shrink()
        assert device.config.usable_region_size == 320 * MIB
        device.resize(0)
        assert device.config.usable_region_size == 320 * MIB
        shrink()
        assert device.config.usable_region_size == 0
        assert machine.ask(STATE, 0, 1).type is ERROR


def test_unplug_all_with_nothing_plugged_is_fine_while_migrating_and_calls_nobody() -> None:
    machine = Machine(1, requested=2)
    machine.device.migrating = True
    machine.device.resize(0)
    assert machine.unplug_all() is ACK
    assert machine.faults.steps == []
    assert machine.device.config.usable_region_size == 0


def test_unplugging_below_the_requested_size_is_the_guests_choice() -> None:
    machine = Machine(requested=4)
    assert (machine.plug(0, 4), machine.unplug(0, 4), machine.plug(3, 4)) == (ACK, ACK, ACK)


def test_lowering_the_requested_size_takes_nothing_away() -> None:
    machine = Machine(requested=4)
    machine.plug(0, 4)
    machine.device.resize(2 * BLOCK)
    assert machine.device.config.plugged_size == 4 * BLOCK
    assert machine.plug(8) is NACK
    machine.unplug(0, 3)
    assert machine.plug(8) is ACK


@pytest.mark.parametrize("size", [-BLOCK, 1, BLOCK + 1, 65 * BLOCK])
def test_resize_refuses_what_no_guest_can_reach(size: int) -> None:
    machine = Machine(requested=4)
    before = machine.device.config
    with pytest.raises(InvalidArgument, match="would fit"):
        machine.device.resize(size)
    assert machine.device.config == before
    assert machine.heard.configs == []


def test_resize_tells_the_guest_even_what_it_knows() -> None:
    machine = Machine(requested=4)
    machine.device.resize(4 * BLOCK)
    machine.device.resize(6 * BLOCK)
    assert [config.requested_size for config in machine.heard.configs] == [4 * BLOCK, 6 * BLOCK]
    machine.plug(0, 2)
    machine.unplug_all()
    assert len(machine.heard.configs) == 2


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


OFFERS = [
    ({}, Feature.UNPLUGGED_INACCESSIBLE),
    ({"unplugged_inaccessible": False}, Feature(0)),
    (
        {"node_id": 1, "persistent_suspend": True},
        Feature.ACPI_PXM | Feature.UNPLUGGED_INACCESSIBLE | Feature.PERSISTENT_SUSPEND,
    ),
]


@pytest.mark.parametrize(("options", "offered"), OFFERS)
def test_features(options: dict[str, object], offered: Feature) -> None:
    machine = Machine(**options)  # type: ignore[arg-type]
    device = machine.device
    assert device.features == offered
    device.negotiate(offered | 1 << 32)
    assert device.negotiated == offered
    with pytest.raises(FeaturesRefused, match="0x8 was not offered"):
        device.negotiate(offered | 8)


def test_a_driver_that_may_read_unplugged_memory_is_refused_unless_it_may() -> None:
    strict, legacy = Machine(), Machine(unplugged_inaccessible=False)
    with pytest.raises(FeaturesRefused, match="may read unplugged memory"):
        strict.device.negotiate(0)
    legacy.device.negotiate(0)


@pytest.mark.parametrize(
    ("page_size", "thp_size", "block_size"),
    [
        (4096, 2 * MIB, 2 * MIB),
        (4096, None, MIB),
        (2 * MIB, 2 * MIB, 2 * MIB),
        (GIB, 2 * MIB, GIB),
        (64 << 10, 512 * MIB, MIB),
    ],
)
def test_default_block_size(page_size: int, thp_size: int | None, block_size: int) -> None:
    assert default_block_size(page_size, thp_size) == block_size


def test_default_block_size_with_large_host_pages() -> None:
    assert default_block_size(64 << 10, 512 * MIB, host_page_size=64 << 10) == 512 * MIB


@pytest.mark.parametrize(
    ("options", "fitting"),
    [
        ({"block_size": 3 * MIB}, "0x40_0000 would fit"),
        ({"block_size": MIB // 2}, "0x10_0000 would fit"),
        ({"block_size": 0}, "0x10_0000 would fit"),
        ({"address": ADDRESS + 4096}, "0x1_0020_0000 would fit"),
        ({"address": -BLOCK}, "0x0 would fit"),
        ({"region_offset": 4096}, "0x20_0000 would fit"),
        ({"region_size": BLOCK + 4096}, "0x40_0000 would fit"),
        ({"region_size": 65 * BLOCK}, "0x800_0000 would fit"),
        ({"region_size": 0}, "0x20_0000 would fit"),
        ({"region_offset": 2 * BLOCK, "region_size": 64 * BLOCK}, "0x7c0_0000 would fit"),
        ({"address": (1 << 64) - 2 * BLOCK}, "0x40_0000 would fit"),
        ({"requested_size": BLOCK + 1}, "0x40_0000 would fit"),
        ({"requested_size": 65 * BLOCK}, "0x800_0000 would fit"),
        ({"node_id": 1 << 16}, "not in 0 to 0xffff"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_changes(options: dict[str, int], fitting: str) -> None:
    memory = FakeMemory()
    with pytest.raises(InvalidArgument, match=fitting):
        VirtioMem(memory, **{"address": ADDRESS, "block_size": BLOCK, **options})  # type: ignore[arg-type]
    assert memory.faults.steps == []


@pytest.mark.parametrize("block_size", [1 << order for order in range(20, 31)])
@pytest.mark.parametrize("page_size", [4096, 2 * MIB, GIB])
def test_blocks_are_whole_pages_of_the_memory(page_size: int, block_size: int) -> None:
    if block_size < page_size:
        with pytest.raises(InvalidArgument, match=f"{page_size:#_x} would fit"):
            check_block_size(block_size, page_size)
    else:
        check_block_size(block_size, page_size)
        check_region(0, 0, 4 * GIB, block_size, 4 * GIB)


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


def test_a_legacy_driver_gets_no_huge_pages() -> None:
    memory = FakeMemory(page_size=2 * MIB)
    with pytest.raises(InvalidArgument, match="SIGBUS"):
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, unplugged_inaccessible=False)
    assert memory.faults.steps == []


@pytest.mark.parametrize("page_size", [4096, 2 * MIB])
def test_without_a_block_size_a_device_takes_the_hosts(page_size: int) -> None:
    expected = default_block_size(page_size, transparent_huge_page_size(), 4096)
    with VirtioMem(FakeMemory(page_size=page_size), address=ADDRESS) as device:
        assert device.config.block_size == expected


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
