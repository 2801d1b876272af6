"""The requested size, the usable region, and what a resize does to both."""

from __future__ import annotations

import pytest

from pyvfio.errors import InvalidArgument
from tests.support.virtiomem.fakes import BLOCK, MIB, Machine
from virtiomem.device import (
    RequestType,
    ResponseType,
    usable_region_size,
)

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
GIB = 1 << 30


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
