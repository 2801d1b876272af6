"""Rules of a change that no other test names: what has a lock, what is kept while something fails twice."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest

from pyvfio import Container, Memory, MemoryKind
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel
from tests.support.kernels.held import held_by
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, Machine
from virtiomem import DmaMapper, VirtioMem
from virtiomem.device import DeviceBusy, Request, RequestType, Response, ResponseType
from virtiomem.device.blocks import BlockMap
from virtiomem.runs import Run


class Watched:
    """A lock; map: whose it is. seen: how many blocks were plugged each time it was taken and given back."""

    def __init__(self, blocks: BlockMap) -> None:
        self._blocks = blocks
        self.seen: list[int] = []

    def __enter__(self) -> None:
        self.seen.append(self._blocks.plugged)

    def __exit__(self, *_: object) -> None:
        self.seen.append(self._blocks.plugged)


def test_blocks_change_and_are_listed_under_a_lock() -> None:
    """So whoever asks while they change sees the map of one moment."""
    blocks: Any = BlockMap(8)
    blocks._lock = lock = Watched(blocks)
    blocks.plug(Run(0, 3))
    assert lock.seen == [0, 3]
    assert blocks.plugged_runs() == (Run(0, 3),)
    assert lock.seen == [0, 3, 3, 3]
    blocks.unplug(Run(1, 1))
    assert lock.seen[4:] == [3, 2]


def test_close_gives_back_what_an_earlier_failure_has_left_or_says_that_it_does_not() -> None:
    machine = Machine(listeners=1, blocks=4)
    # The listener refuses, and then the memory does not take its pages back.
    machine.faults.arm(1, 2)
    assert machine.plug(0) is ResponseType.BUSY
    assert machine.memory.populated == [Run(0, BLOCK)]
    machine.faults.arm(every_from=0)
    machine.discards.unregister(machine.listeners[0])
    with pytest.raises(DeviceBusy, match="could not be discarded"):
        machine.device.close()
    machine.faults.disarm()
    machine.device.close()
    assert machine.memory.populated == []


def test_no_state_is_loaded_while_the_device_migrates() -> None:
    machine, other = Machine(blocks=4), Machine(blocks=4)
    assert other.plug(0) is ResponseType.ACK
    machine.device.migrating = True
    with pytest.raises(DeviceBusy, match="migrat"):
        machine.device.load(other.device.save())
    assert machine.plugged() == []


def test_what_a_listener_has_lost_is_not_taken_for_held_when_another_change_fails() -> None:
    machine = Machine(listeners=2, blocks=4)
    assert machine.plug(0, 2) is ResponseType.ACK
    # The second lets go, the first does not, and the second does not take it again.
    machine.faults.arm(1, 2)
    assert machine.unplug(0) is ResponseType.BUSY
    (lost,) = machine.discards.divergences
    assert (lost.listener, lost.stale) == ("listener 1", False)
    # The same again, of two blocks, one of which the second does not hold.
    machine.faults.arm(every_from=0)
    assert machine.unplug(0, 2) is ResponseType.BUSY
    assert [(each.listener, each.section.run) for each in machine.discards.divergences] == [
        ("listener 1", Run(0, BLOCK))
    ]
    machine.faults.disarm()
    assert machine.discards.repair() == ()
    assert machine.listeners[1].held == [Run(0, 2 * BLOCK)]


def test_what_is_known_of_divergences_waits_for_no_change() -> None:
    machine = Machine(blocks=4)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(machine.discards.known_divergences), daemon=True)
    with machine.discards.lock:
        thread.start()
        thread.join(5)
        assert found == [()]
    thread.join()


def test_a_populate_in_pieces_that_fails_takes_back_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiomem.mapping.dma._AT_ONCE", BLOCK)
    simulated = SimKernel(edu_devices=1)
    kernel = FaultyKernel(simulated)
    with Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK, kernel=kernel) as memory, Container(kernel=kernel) as space:
        space.open_device(edu_addresses(simulated)[0])
        with VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=4 * BLOCK) as device:
            mapper = DmaMapper(space)
            device.discards.register(mapper, device.section)
            kernel.arm(Fault(2, request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
            answer = Response.parse(device.handle(bytes(Request(RequestType.PLUG, ADDRESS, 4))))
            assert answer.type is ResponseType.BUSY
            assert held_by(simulated, space, memory) == []
            assert simulated.charges.locked == 0
            kernel.arm()
            device.discards.unregister(mapper)
            mapper.close()
