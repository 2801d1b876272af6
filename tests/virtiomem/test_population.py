"""Population: who waits for it, over which memory, in blocks of which size."""

from __future__ import annotations

import threading

import pytest

from pyvfio import Container, Memory, MemoryKind
from pyvfio.drivers.edu import edu_addresses
from pyvfio.errors import InvalidArgument
from pyvfio.kernel import transparent_huge_page_size
from pyvfio.sim import SimKernel
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory, Machine
from virtiomem.device import BusyReason, Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import RamDiscardManager, Section
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run

ACK = ResponseType.ACK
PLUG, UNPLUG = RequestType.PLUG, RequestType.UNPLUG


def test_without_prealloc_memory_is_populated_by_who_needs_it() -> None:
    machine = Machine(1, prealloc=False)
    machine.listeners[0].needs_memory = False
    assert machine.plug(0, 4) is ACK
    assert machine.faults.steps == ["listener 0.populate"]


class Waiting(FakeMemory):
    """Populating a range waits for the others to be at it, too."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties, timeout=10)

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        self.barrier.wait()
        super().populate(offset, size, threads=threads)
        self.barrier.wait()


def test_nobody_waits_for_another_device_to_populate() -> None:
    """Not even those that share a memory and its manager; nor does whoever joins, or reads a config."""
    memory = Waiting(3)
    discards = RamDiscardManager(memory)
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
        )
        for offset in (0, half)
    )
    with low, high:
        plugs = [
            threading.Thread(target=device.handle, args=(bytes(Request(PLUG, device.config.addr, 4)),))
            for device in (low, high)
        ]
        for plug in plugs:
            plug.start()
        memory.barrier.wait()
        listener = FakeListener(memory)
        discards.register(listener, Section(memory, 0, ADDRESS, memory.size))
        assert (low.config.plugged_size, low.plugged_runs, listener.held) == (0, (), [])
        memory.barrier.wait()
        for plug in plugs:
            plug.join()
        assert listener.held == [Run(0, 4 * BLOCK), Run(half, 4 * BLOCK)]


@pytest.mark.parametrize("started", [0, 1, 3])
def test_where_no_threads_are_to_be_had_one_does_all(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """It is not BUSY for ever, and escapes nowhere."""
    left = started
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    kernel = SimKernel()
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 32 * BLOCK, kernel=kernel) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc_threads=8) as device,
    ):
        monkeypatch.setattr(threading.Thread, "start", scarce)
        assert Response.parse(device.handle(bytes(Request(PLUG, ADDRESS, 32)))).type is ACK
        monkeypatch.undo()
        assert memory.resident(0, memory.size) == memory.size


def test_as_many_threads_populate_as_wanted() -> None:
    machine = Machine(prealloc_threads=3)
    machine.plug(0)
    assert machine.memory.threads == 3


@pytest.mark.parametrize("order", range(20, 31))
@pytest.mark.parametrize("kind", MemoryKind)
def test_every_block_size_over_every_memory(kind: MemoryKind, order: int) -> None:
    """Two blocks plugged and mapped one by one, or refused where a block is less than a page."""
    kernel = SimKernel(edu_devices=1, populate_on_pin=False, host_huge_pages=False)
    block = 1 << order
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(kind, 4 << 30, kernel=kernel) as memory,
    ):
        container.open_device(edu_addresses(kernel)[0])
        if block < memory.page_size:
            with pytest.raises(InvalidArgument, match="would fit"):
                VirtioMem(memory, address=4 << 30, block_size=block)
            return
        with VirtioMem(memory, address=4 << 30, block_size=block, requested_size=2 * block, prealloc=False) as device:
            device.discards.register(DmaMapper(container), device.section)
            for request in (
                Request(PLUG, 4 << 30, 2),
                Request(UNPLUG, 4 << 30, 1),
                Request(PLUG, (4 << 30) + block * 2, 1),
            ):
                assert Response.parse(device.handle(bytes(request))).type is ACK
            mappings = kernel.containers[0].mappings
            assert [(mapping.iova, mapping.size) for mapping in mappings] == [
                ((4 << 30) + place * block, block) for place in (1, 2)
            ]
            device.system_reset()
            assert kernel.containers[0].mappings == ()


def test_blocks_smaller_than_huge_pages_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    huge = transparent_huge_page_size() or 0
    for kind in (MemoryKind.THP, MemoryKind.ANONYMOUS):
        with Memory.allocate(kind, 8 << 20) as memory, VirtioMem(memory, address=0, block_size=1 << 20):
            pass
    assert len(caplog.records) == (huge > 1 << 20)


class Impatient(FakeMemory):
    """Its device is given up as soon as it populates."""

    device: VirtioMem

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        super().populate(offset, size, threads=threads)
        self.device.give_up()


def test_a_plug_that_is_given_up_is_busy_and_leaves_nothing() -> None:
    memory = Impatient(size=512 * BLOCK)
    memory.device = VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size)
    memory.faults.steps.clear()

    def plug(count: int) -> ResponseType:
        return Response.parse(memory.device.handle(bytes(Request(PLUG, ADDRESS, count)))).type

    assert plug(512) is ResponseType.BUSY
    assert memory.faults.steps == ["memory.populate", "memory.discard"]
    assert (memory.populated, memory.device.plugged_size) == ([], 0)
    assert plug(1) is ResponseType.BUSY
    assert memory.device.statistics.refusals == {BusyReason.STOPPING: 2}
    memory.device.close()
