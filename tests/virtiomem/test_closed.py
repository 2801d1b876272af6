"""Closed means closed: who has gone decides nothing, takes nothing, and leaves nothing that keeps others out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from pyvfio.errors import ClosedError
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory, FakeSource, Machine, divided
from tests.support.virtiomem.iommu import FaultySpace, World
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination, DiscardRefused, DiscardUse, RamDiscardManager, Section
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PAGE = 4096


def device_of(memory: FakeMemory, discards: RamDiscardManager, offset: int = 0, size: int | None = None) -> VirtioMem:
    return VirtioMem(
        memory,
        address=ADDRESS,
        block_size=BLOCK,
        requested_size=size or memory.size,
        region_offset=offset,
        region_size=size,
        discards=discards,
    )


def ask(device: VirtioMem, kind: RequestType, block: int, count: int) -> ResponseType:
    return Response.parse(device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type


def test_a_device_that_is_closed_leaves_its_manager_and_the_next_one_over_its_memory_is_heard() -> None:
    memory = FakeMemory()
    discards = RamDiscardManager(memory)
    first = device_of(memory, discards)
    listener = FakeListener(memory)
    discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
    assert ask(first, RequestType.PLUG, 0, 4) is ACK
    first.close()
    assert listener.held == memory.populated == []
    with device_of(memory, discards) as second:
        assert ask(second, RequestType.PLUG, 2, 4) is ACK
        assert listener.held == memory.populated == divided(range(2, 6))
        assert discards.divergences == ()
    assert listener.held == memory.populated == []


def test_what_a_closed_device_left_stays_discarded_for_everybody() -> None:
    """Nobody gets all of it mapped because nobody says any more that it is not plugged."""
    memory = FakeMemory()
    memory.populated = [Run(0, memory.size)]
    discards = RamDiscardManager(memory)
    half = memory.size // 2
    device = device_of(memory, discards, half, half)
    listener = FakeListener(memory)
    discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
    device.close()
    assert discards.populated_runs(discards.region) == listener.held == [Run(0, half)]
    other = FakeSource("other", BLOCK, [Run(0, BLOCK)])
    discards.add_source(other)
    assert listener.held == [Run(0, BLOCK)]
    discards.remove_source(other)
    assert listener.held == [Run(0, half)]


def test_a_device_that_cannot_start_over_what_another_left_leaves_it_as_it_was() -> None:
    memory = FakeMemory()
    discards = RamDiscardManager(memory)
    first = device_of(memory, discards)
    listener = FakeListener(memory)
    discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
    first.close()
    memory.faults.arm(0)
    with pytest.raises(OSError, match="injected"):
        device_of(memory, discards)
    assert listener.held == []
    memory.faults.disarm()
    device_of(memory, discards).close()


AFTER: dict[str, Callable[[VirtioMem], object]] = {
    "handle": lambda device: device.handle(bytes(24)),
    "resize": lambda device: device.resize(0),
    "migrating": lambda device: setattr(device, "migrating", True),
    "negotiate": lambda device: device.negotiate(0),
    "device_reset": lambda device: device.device_reset(),
    "system_reset": lambda device: device.system_reset(),
    "save": lambda device: device.save(),
    "flush_events": lambda device: device.flush_events(),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_closed_device_takes_nothing(name: str) -> None:
    machine = Machine()
    machine.device.close()
    with pytest.raises(ClosedError):
        AFTER[name](machine.device)
    assert machine.device.next_event_time is None
    assert not machine.device.migrating


GUEST: dict[str, Callable[[World], object]] = {
    "join": lambda world: world.domain.join(FaultySpace(9, world.faults)),
    "leave": lambda world: world.domain.leave(world.spaces[0]),
    "map": lambda world: world.map(0, 0, PAGE),
    "unmap": lambda world: world.domain.unmap(0, PAGE),
}


@pytest.mark.parametrize("name", GUEST)
def test_a_closed_guest_iommu_takes_nothing(name: str) -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.map(0, 0, PAGE)
        world.iommu.close()
        with pytest.raises(ClosedError, match="guest IOMMU"):
            GUEST[name](world)
        assert world.domain.mappings == world.spaces[0].held() == ()
        assert world.unplug(0) is ACK


def test_a_guest_iommus_close_that_failed_can_be_tried_again() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.map(0, 0, PAGE)
        before = world.domain.mappings
        world.faults.arm(0)
        with pytest.raises(OSError, match="injected"):
            world.iommu.close()
        assert world.domain.mappings == world.spaces[0].held() == before
        world.faults.disarm()
        world.iommu.close()
        assert world.spaces[0].held() == ()


def test_who_must_exclude_each_other_over_a_memory_do_without_being_told() -> None:
    memory = FakeMemory()
    with DiscardCoordination.of(memory).hold(DiscardUse.DISABLE, "mlock"):
        with pytest.raises(DiscardRefused, match="mlock"):
            VirtioMem(memory, address=ADDRESS, block_size=BLOCK)
        VirtioMem(FakeMemory(), address=ADDRESS, block_size=BLOCK).close()
    with (
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK),
        pytest.raises(DiscardRefused, match="virtio-mem"),
    ):
        DiscardCoordination.of(memory).hold(DiscardUse.DISABLE, "mlock")
    DiscardCoordination.of(memory).hold(DiscardUse.DISABLE, "mlock").release()


def test_a_balloon_and_whoever_maps_exclude_each_other_without_being_told() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.iommu.close()
        claims = DiscardCoordination.of(world.memory)
        mapper = DmaMapper(FaultySpace(7, world.faults))
        with (
            claims.hold(DiscardUse.REQUIRE, "balloon"),
            pytest.raises(DiscardRefused, match="balloon"),
        ):
            world.device.discards.register(mapper, world.device.section)
        world.device.discards.register(mapper, world.device.section)
        with pytest.raises(DiscardRefused, match="DMA mapper of address space 7"):
            claims.hold(DiscardUse.REQUIRE, "balloon")
        world.device.discards.unregister(mapper)
        claims.hold(DiscardUse.REQUIRE, "balloon").release()
