"""The virtio specification's list for the device side of virtio-mem: docs/virtio-mem-requirements.md names a test for
each, and here are those that have no better place."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from pyvfio.memory import Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, Machine
from virtiomem.device import Config, DeviceBusy, Request, RequestType, Response, ResponseType, VirtioMem

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "virtio-mem-requirements.md"
PAGES = (PAGE, ROOT / "docs" / "promises.md")
NAMED = sorted({named for page in PAGES for named in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())})


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert name in defined | assigned


def test_every_promise_has_a_test() -> None:
    rows = [line for line in PAGES[1].read_text().splitlines() if re.match(r"\| (?!to \||-)", line)]
    assert len(rows) >= 20
    assert [row for row in rows if "`tests/" not in row] == []


def test_every_requirement_has_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| (MUST|SHOULD|MAY)", line)]
    assert len(rows) >= 30
    assert [row for row in rows if "`tests/" not in row] == []


def test_whatever_happens_config_keeps_its_rules() -> None:
    """Geometry is for life, sizes are whole blocks, usable >= requested, and shrinks at UNPLUG_ALL or reset only;
    plugged_size is what is plugged."""
    chance = random.Random(4)
    machine = Machine(1, requested=8, node_id=3, event_interval=0.0)
    geometry = machine.device.config
    for _ in range(2000):
        before = machine.device.config
        shrinks = False
        match chance.randrange(6):
            case 0 | 1:
                machine.plug(chance.randrange(70), chance.randrange(9))
            case 2 | 3:
                machine.unplug(chance.randrange(70), chance.randrange(9))
            case 4:
                machine.device.resize(chance.randrange(65) * BLOCK)
            case _:
                shrinks = True
                machine.device.migrating = chance.random() < 0.2
                if chance.random() < 0.5:
                    machine.unplug_all()
                else:
                    reset(machine)
                machine.device.migrating = False
        after = machine.device.config
        assert after.block_size == BLOCK
        assert fixed(after) == fixed(geometry)
        assert all(size % BLOCK == 0 for size in (after.usable_region_size, after.plugged_size, after.requested_size))
        assert after.requested_size <= after.usable_region_size <= after.region_size
        assert shrinks or after.usable_region_size >= before.usable_region_size
        assert after.plugged_size == sum(run.size for run in machine.plugged())


def reset(machine: Machine) -> None:
    try:
        machine.device.system_reset()
    except DeviceBusy:
        assert machine.device.migrating


def fixed(config: Config) -> tuple[int, int, int, int]:
    return config.block_size, config.node_id, config.addr, config.region_size


def test_a_legacy_driver_may_read_what_is_unplugged() -> None:
    """Without UNPLUGGED_INACCESSIBLE the CPU may read all of the usable region, as zeros."""
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 64 * BLOCK) as memory,
        VirtioMem(
            memory, address=ADDRESS, block_size=BLOCK, requested_size=64 * BLOCK, unplugged_inaccessible=False
        ) as device,
    ):
        device.negotiate(0)
        for kind in (RequestType.PLUG, RequestType.UNPLUG):
            assert Response.parse(device.handle(bytes(Request(kind, ADDRESS, 2)))).type is ResponseType.ACK
            if kind is RequestType.PLUG:
                memory.write(BLOCK, b"plugged")
        assert memory.read(BLOCK, 7) == bytes(7)
        assert memory.read(60 * BLOCK, BLOCK) == bytes(BLOCK)
