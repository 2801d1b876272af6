"""What of a device travels with a virtual machine, and what is made of what arrives."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeMemory, Machine, divided
from virtiomem.device import (
    BusyReason,
    Config,
    DeviceBusy,
    Feature,
    ProtocolViolation,
    RequestType,
    ResponseType,
    StateRefused,
    VirtioMem,
)
from virtiomem.device.state import DeviceState
from virtiomem.runs import Run, union

BLOCKS = 13


def source(**options: Any) -> Machine:
    """Blocks 2 to 4 and 9 plugged, more than are requested."""
    machine = Machine(blocks=BLOCKS, requested=BLOCKS, **options)
    machine.device.negotiate(int(machine.device.features))
    for block, count in ((2, 3), (9, 1)):
        assert machine.plug(block, count) is ResponseType.ACK
    machine.device.resize(3 * BLOCK)
    machine.device.migrating = True
    return machine


def saved() -> bytes:
    machine = source()
    return machine.device.save()


def test_a_device_goes_on_where_another_was() -> None:
    machine = source(persistent_suspend=True)
    with pytest.raises(ProtocolViolation):
        machine.device.handle(b"")
    target = Machine(2, blocks=BLOCKS, requested=1, persistent_suspend=True)
    target.device.load(machine.device.save())
    assert target.device.config == machine.device.config
    assert target.device.negotiated == machine.device.features
    assert target.device.broken
    plugged = divided([2, 3, 4, 9])
    assert target.plugged() == target.memory.populated == plugged
    assert [listener.held for listener in target.listeners] == [plugged, plugged]
    target.device.device_reset()
    assert target.plug(0) is ResponseType.NACK
    assert target.unplug(2, 3) is ResponseType.ACK


def test_it_stays_as_it_is_while_migrating() -> None:
    machine = source()
    before = machine.device.save()
    for answer in (machine.plug(0), machine.unplug(2), machine.unplug_all()):
        assert answer in (ResponseType.BUSY, ResponseType.NACK)
    assert machine.device.save() == before


def test_an_empty_device() -> None:
    target = Machine(1, blocks=BLOCKS, requested=4)
    empty = Machine(blocks=BLOCKS, requested=0)
    target.device.load(empty.device.save())
    assert (target.device.config.requested_size, target.device.config.usable_region_size) == (0, 0)


@given(st.sets(st.integers(0, 99)), st.integers(1, 100))
def test_every_state_comes_back_from_its_bytes(plugged: set[int], count: int) -> None:
    runs = tuple(union(Run(block, 1) for block in plugged if block < count))
    size = sum(run.size for run in runs) * BLOCK
    config = Config(BLOCK, 3, ADDRESS, count * BLOCK, count * BLOCK, size, 0)
    state = DeviceState(config, Feature.UNPLUGGED_INACCESSIBLE, True, runs)
    assert DeviceState.parse(bytes(state)) == state


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, b"virtmem\0" + noise, b"virtmem\0" + struct.pack("<II", 1, 16 + len(noise)) + noise):
        with pytest.raises(StateRefused):
            DeviceState.parse(data)


@given(st.integers(0, 97), st.integers(1, 255))
def test_every_damaged_byte_is_noticed(position: int, change: int) -> None:
    data = bytearray(saved())
    data[position % len(data)] ^= change
    with pytest.raises(StateRefused):
        DeviceState.parse(bytes(data))


def sealed(state: bytes, position: int, value: bytes) -> bytes:
    """The state with something else at position, and a checksum that says it is right."""
    data = state[:position] + value + state[position + len(value) : -4]
    return data + struct.pack("<I", zlib.crc32(data))


CONFIG = 16
u64 = struct.Struct("<Q").pack
TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no magic": (lambda state: b"qemu" + state[4:], "not the state of a virtio-mem device"),
    "another version": (lambda state: sealed(state, 8, b"\2\0\0\0"), "version 2, and this library reads version 1"),
    "cut short": (lambda state: state[:-1], "89 bytes of 90"),
    "too long": (lambda state: state + b"\0", "91 bytes of 90"),
    "checksum": (lambda state: state[:-1] + b"?", "checksum is wrong"),
    "flags": (lambda state: sealed(state, CONFIG + 64, b"\2"), "flags 0x2 are unknown"),
    "no block size": (lambda state: sealed(state, CONFIG, u64(0)), "has no blocks"),
    "another bitmap": (lambda state: sealed(state, CONFIG, u64(BLOCKS * BLOCK)), "2 bytes for 1 blocks"),
    "a block too many": (lambda state: sealed(state, CONFIG + 68, b"\x1d"), "do not add up"),
    "a block outside": (lambda state: sealed(state, CONFIG + 68, b"\x1c\x20"), "do not add up"),
    "address": (lambda state: sealed(state, CONFIG + 16, u64(BLOCK)), "its address is 0x20_0000, and this device's"),
    "node id": (lambda state: sealed(state, CONFIG + 8, b"\7"), "its node id is 0x7, and this device's is 0x0"),
    "requested": (lambda state: sealed(state, CONFIG + 48, u64(BLOCK + 1)), "its requested size"),
    "usable": (lambda state: sealed(state, CONFIG + 32, u64(99 * BLOCK)), "its usable size"),
    "plugged beyond usable": (lambda state: sealed(state, CONFIG + 32, u64(9 * BLOCK)), "leaves out"),
    "features": (lambda state: sealed(state, CONFIG + 56, u64(6)), "features 0x4"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_state_that_does_not_fit_is_refused_and_named(name: str) -> None:
    tamper, message = TAMPERED[name]
    target = Machine(1, blocks=BLOCKS, requested=1)
    before = target.state()
    with pytest.raises(StateRefused, match=message):
        target.device.load(tamper(saved()))
    assert target.state() == before
    assert target.faults.steps == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": ADDRESS + BLOCK}, "its address is 0x1_0000_0000, and this device's is 0x1_0020_0000"),
        ({"region_size": 12 * BLOCK}, "its region size is 0x1a0_0000, and this device's is 0x180_0000"),
        ({"block_size": BLOCK // 2}, "its block size is 0x20_0000, and this device's is 0x10_0000"),
        ({"node_id": 2}, "its node id is 0x0, and this device's is 0x2"),
    ],
)
def test_another_geometry_is_refused_by_name(options: dict[str, int], message: str) -> None:
    memory = FakeMemory(BLOCKS * BLOCK)
    state = saved()
    with (
        VirtioMem(memory, **{"address": ADDRESS, "block_size": BLOCK, **options}) as target,  # type: ignore[arg-type]
        pytest.raises(StateRefused, match=message),
    ):
        target.load(state)


def test_a_device_with_plugged_blocks_loads_nothing() -> None:
    machine = source()
    machine.device.migrating = False
    with pytest.raises(StateRefused, match="blocks are plugged"):
        machine.device.load(machine.device.save())


def test_whatever_fails_while_loading_is_undone_and_the_next_try_succeeds() -> None:
    state = saved()
    steps, step = 1, 0
    while step < steps:
        target = Machine(2, blocks=BLOCKS, requested=1)
        before = target.state()
        target.faults.arm(step)
        with pytest.raises(DeviceBusy) as refused:
            target.device.load(state)
        assert refused.value.reason in (BusyReason.NO_MEMORY, BusyReason.MAPPING_REFUSED)
        assert target.state() == before
        target.faults.disarm()
        target.device.load(state)
        step, steps = step + 1, len(target.faults.steps)
        assert target.plugged() == target.listeners[1].held == divided([2, 3, 4, 9])
    assert steps == 6


def test_what_cannot_be_undone_is_still_plugged() -> None:
    target = Machine(1, blocks=BLOCKS, requested=1)
    target.faults.arm(every_from=2)
    with pytest.raises(DeviceBusy):
        target.device.load(saved())
    assert target.plugged() == divided([2, 3, 4])
    assert target.device.config.plugged_size == 3 * BLOCK
    target.faults.disarm()
    assert target.ask(RequestType.UNPLUG_ALL).type is ResponseType.ACK
    target.device.load(saved())
