"""A keeper of a device's state: every change is kept before anybody hears of it, or is not made."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory
from virtiomem.device import (
    USABLE_EXTENT,
    BusyReason,
    Config,
    DeviceBusy,
    DeviceState,
    Events,
    Feature,
    Request,
    RequestType,
    Response,
    ResponseType,
    StateNotKept,
    VirtioMem,
)
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


class Keeper:
    """A StateKeeper. states: what it was given; full: whether it has no room for more."""

    def __init__(self) -> None:
        self.states: list[DeviceState] = []
        self.full = False

    def keep(self, state: DeviceState) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.states.append(state)

    def put_back(self, state: DeviceState) -> None:
        self.states.append(state)

    @property
    def last(self) -> DeviceState:
        return self.states[-1]


class World(Events):
    """heard: how many bytes were kept as plugged, and as requested, when the guest or the host heard of a change."""

    def __init__(self, usable_extent: int = USABLE_EXTENT) -> None:
        self.keeper = Keeper()
        self.memory = FakeMemory()
        self.listener = FakeListener(self.memory)
        self.heard: list[tuple[int, int]] = []
        self.device = VirtioMem(
            self.memory,
            address=ADDRESS,
            block_size=BLOCK,
            requested_size=8 * BLOCK,
            keeper=self.keeper,
            usable_extent=usable_extent,
            events=self,
            event_interval=0.0,
        )
        self.device.discards.register(self.listener, self.device.section)

    def size_changed(self, plugged_size: int) -> None:
        assert plugged_size == self.keeper.last.config.plugged_size

    def config_changed(self, config: Config) -> None:
        assert config.requested_size == self.keeper.last.config.requested_size

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def close(self) -> None:
        self.keeper.full = False
        self.device.close()


@pytest.fixture
def world() -> World:
    return World()


def test_every_change_is_kept_when_it_is_told(world: World) -> None:
    device, keeper = world.device, world.keeper
    device.negotiate(Feature.UNPLUGGED_INACCESSIBLE)
    assert keeper.last.negotiated == Feature.UNPLUGGED_INACCESSIBLE
    assert world.ask(PLUG, 1, 3) is ACK
    assert keeper.last.plugged == (Run(1, 3),)
    device.resize(16 * BLOCK)
    assert ([*keeper.last.plugged], keeper.last.config.requested_size) == ([Run(1, 3)], 16 * BLOCK)
    assert world.ask(UNPLUG, 2, 1) is ACK
    assert [*keeper.last.plugged] == [Run(1, 1), Run(3, 1)]
    assert bytes(keeper.last) == device.save()
    device.resize(0)
    usable = device.config.usable_region_size
    assert world.ask(UNPLUG_ALL) is ACK
    assert keeper.last.config.plugged_size == 0
    assert keeper.last.config.usable_region_size < usable
    assert bytes(keeper.last) == device.save()
    device.device_reset()
    assert not keeper.last.negotiated
    world.close()


def test_what_changes_nothing_is_not_kept_again(world: World) -> None:
    assert world.ask(PLUG, 0, 4) is ACK
    kept = len(world.keeper.states)
    assert (world.ask(STATE, 0, 8), world.ask(PLUG, 0, 1), world.ask(PLUG, 4, 5)) == (ACK, ERROR, NACK)
    assert len(world.keeper.states) == kept
    world.close()


def test_what_cannot_be_kept_is_not_done(world: World) -> None:
    assert world.ask(PLUG, 1, 3) is ACK
    before, held, kept = world.device.save(), [*world.listener.held], world.keeper.last
    world.keeper.full = True
    assert [world.ask(PLUG, 4, 1), world.ask(UNPLUG, 1, 1), world.ask(UNPLUG_ALL)] == [BUSY] * 3
    assert world.device.statistics.refusals == {BusyReason.NOT_RECORDED: 3}
    with pytest.raises(StateNotKept):
        world.device.resize(16 * BLOCK)
    with pytest.raises(DeviceBusy):
        world.device.system_reset()
    assert (world.device.save(), world.listener.held, world.keeper.last) == (before, held, kept)
    assert world.device.discards.divergences == ()
    # A driver that is reset is, and one that starts has started, whoever knows: a guest does not try that again.
    world.device.device_reset()
    world.device.negotiate(Feature.UNPLUGGED_INACCESSIBLE)
    assert world.device.statistics.failures_to_tell == 3
    world.keeper.full = False
    assert world.ask(UNPLUG, 1, 1) is ACK
    assert world.keeper.last.negotiated == Feature.UNPLUGGED_INACCESSIBLE
    world.close()


@pytest.mark.parametrize("step", range(8))
def test_what_is_undone_is_kept_as_it_is_then(world: World, step: int) -> None:
    for kind, block, count in ((PLUG, 4, 2), (UNPLUG, 0, 3), (UNPLUG_ALL, 0, 0)):
        assert world.ask(PLUG, 0, 3) in (ACK, ERROR)
        world.memory.faults.arm(step)
        world.ask(kind, block, count)
        world.memory.faults.disarm()
        assert bytes(world.keeper.last) == world.device.save()
    world.close()


def test_an_unplug_of_all_that_failed_can_be_gone_on_from() -> None:
    """The usable region, which would have shrunk, still has what is plugged."""
    world = World(usable_extent=0)
    assert world.ask(PLUG, 7, 1) is ACK
    world.device.resize(BLOCK)
    world.memory.faults.arm(1)
    assert world.ask(UNPLUG_ALL) is BUSY
    world.memory.faults.disarm()
    assert bytes(world.keeper.last) == world.device.save()
    with World(usable_extent=0).device as other:
        world.keeper.last.check(replace(other.config, requested_size=0), other.features)
    world.close()


@pytest.mark.parametrize("plugged", [0, 3])
def test_an_unplug_of_all_that_cannot_be_kept_is_busy(world: World, plugged: int) -> None:
    if plugged:
        assert world.ask(PLUG, 0, plugged) is ACK
    world.keeper.full = True
    assert world.ask(UNPLUG_ALL) is BUSY
    assert world.device.plugged_size == plugged * BLOCK
    with pytest.raises(DeviceBusy):
        world.device.system_reset()
    world.keeper.full = False
    assert world.ask(UNPLUG_ALL) is ACK
    world.close()


def test_a_state_is_kept_as_loaded_when_all_of_it_is(world: World) -> None:
    """Until then the one before stands: a process that ends in between has lost nothing."""
    assert world.ask(PLUG, 1, 1) is ACK
    assert world.ask(PLUG, 4, 2) is ACK
    state = world.device.save()
    other = World()
    other.memory.faults.arm(3)
    with pytest.raises(DeviceBusy):
        other.device.load(state)
    assert other.keeper.states == []
    other.memory.faults.disarm()
    other.keeper.full = True
    with pytest.raises(DeviceBusy):
        other.device.load(state)
    assert (other.device.plugged_size, other.listener.held) == (0, [])
    other.keeper.full = False
    other.device.load(state)
    assert [bytes(kept) for kept in other.keeper.states] == [state]
    world.close()
    other.close()
