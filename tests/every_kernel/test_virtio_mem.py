"""A virtio-mem device over a kernel's memory and containers: what runs short, what is revoked, who is killed."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyvfio import Container, GroupBusy, InvalidArgument, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.kernel import huge_pages, memlock
from pyvfio.sim import SimKernel
from tests.support.kernels.modes import Mode
from tests.support.kernels.testbed import IOVA, MEBIBYTE, MEMORY_KINDS, Testbed
from virtiomem import (
    BusyReason,
    DirtyTracker,
    DmaMapper,
    Events,
    GuestIommu,
    GuestMappingRefused,
    RefusalReason,
    Request,
    RequestRefused,
    RequestType,
    Response,
    ResponseType,
    Section,
    VirtioMem,
)

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
HUGE = 2 * MEBIBYTE
PAGE = 4096


class Reasons(Events):
    def __init__(self) -> None:
        self.given: list[RefusalReason] = []

    def request_refused(self, request: Request, error: RequestRefused) -> None:  # noqa: ARG002 (the event's signature)
        self.given.append(error.reason)


def ask(device: VirtioMem, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
    request = Request(kind, IOVA + block * device.config.block_size, count)
    return Response.parse(device.handle(bytes(request))).type


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("block", [MEBIBYTE, HUGE, 16 * HUGE])
@pytest.mark.parametrize("kind", MEMORY_KINDS, ids=lambda kind: kind.value)
def test_blocks_of_any_size_over_any_memory(testbed: Testbed, stack: ExitStack, kind: MemoryKind, block: int) -> None:
    memory = stack.enter_context(Memory.allocate(kind, 64 * HUGE, kernel=testbed.kernel))
    if block < memory.page_size:
        with pytest.raises(InvalidArgument, match="would fit"):
            VirtioMem(memory, address=IOVA, block_size=block)
        return
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=block, requested_size=memory.size))
    container = stack.enter_context(Container(kernel=testbed.kernel))
    engine = stack.enter_context(Edu(container.open_device(testbed.devices[0])))
    mapper = stack.enter_context(DmaMapper(container))
    device.discards.register(mapper, device.section)
    stack.callback(device.discards.unregister, mapper)
    assert ask(device, PLUG, 1, 2) is ACK
    memory.write(block, b"carried from block to block")
    engine.fetch(IOVA + block, 27)
    engine.store(IOVA + 3 * block - PAGE, 27)
    assert memory.read(3 * block - PAGE, 27) == b"carried from block to block"
    assert ask(device, UNPLUG, 2, 1) is ACK
    # A huge page that is larger than a block may have brought more.
    assert (memory.resident(block, block), memory.resident(2 * block, block)) == (block, 0)
    assert ask(device, PLUG, 2, 1) is ACK
    assert memory.read(3 * block - PAGE, 27) == bytes(27)
    assert memory.read(block, 7) == b"carried"


@pytest.mark.parametrize("code", [errno.EFAULT, errno.ENOMEM])
def test_a_shortage_of_huge_pages_is_busy_and_loses_nothing(testbed: Testbed, stack: ExitStack, code: int) -> None:
    """On a real kernel the pool is too small indeed; elsewhere populating says what it would say then."""
    kernel, reasons = FaultyKernel(testbed.kernel), Reasons()
    free = huge_pages(HUGE, kernel).free
    blocks = min(free, 252) + 4
    real = not isinstance(testbed.kernel, SimKernel)
    memory = stack.enter_context(Memory.allocate(MemoryKind.HUGETLB, blocks * HUGE, kernel=kernel))
    device = stack.enter_context(
        VirtioMem(memory, address=IOVA, block_size=HUGE, requested_size=memory.size, events=reasons)
    )
    container = stack.enter_context(Container(kernel=kernel))
    container.open_device(testbed.devices[0])
    mapper = stack.enter_context(DmaMapper(container))
    device.discards.register(mapper, device.section)
    stack.callback(device.discards.unregister, mapper)
    assert ask(device, PLUG, 0, 2) is ACK
    memory.write(0, b"kept")
    charged, left = memlock(kernel).charged, container.mappings_left
    if not real or blocks <= free:
        kernel.arm(Fault(0, "madvise", errno=code))
    assert ask(device, PLUG, 2, blocks - 2) is BUSY
    assert reasons.given == [BusyReason.NO_MEMORY]
    assert (memlock(kernel).charged, container.mappings_left) == (charged, left)
    assert memory.resident(0, memory.size) == 2 * HUGE
    assert memory.read(0, 4) == b"kept"
    if real:
        assert huge_pages(HUGE, kernel).free == free - 2
    assert ask(device, PLUG, 2, 2) is ACK
    assert ask(device, UNPLUG_ALL) is ACK
    if real:
        assert huge_pages(HUGE, kernel).free == free


def test_a_guests_mapping_is_out_of_reach_before_its_memory_is_gone(
    mode: Mode, testbed: Testbed, stack: ExitStack
) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.MEMFD, 8 * MEBIBYTE, kernel=testbed.kernel))
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=MEBIBYTE, requested_size=memory.size))
    space = mode.open(testbed.kernel)
    stack.callback(space.close)
    engine = stack.enter_context(Edu(space.open_device(testbed.devices[0])))
    iommu = stack.enter_context(GuestIommu(device.discards, device.section, max_bytes=memory.size, max_mappings=8))
    domain = iommu.open_domain()
    domain.join(space)
    stack.callback(domain.leave, space)
    charged = mode.charged(testbed.kernel)
    with pytest.raises(GuestMappingRefused, match="not plugged"):
        domain.map(0x4000, IOVA + MEBIBYTE, PAGE)
    assert ask(device, PLUG, 0, 3) is ACK
    domain.map(0x4000, IOVA + MEBIBYTE, PAGE)
    domain.map(0x8000, IOVA, 2 * PAGE)
    assert mode.charged(testbed.kernel) == charged + 3 * PAGE
    memory.write(0, b"written by the guest")
    engine.fetch(0x8000, 20)
    engine.store(0x4000, 20)
    assert memory.read(MEBIBYTE, 20) == b"written by the guest"
    assert ask(device, UNPLUG, 1, 1) is ACK
    engine.store(0x4000, 20)
    assert ask(device, PLUG, 1, 1) is ACK
    engine.store(0x4000, 20)
    assert memory.read(MEBIBYTE, 20) == bytes(20)
    assert mode.charged(testbed.kernel) == charged + 2 * PAGE
    assert [mapping.iova for mapping in domain.mappings] == [0x8000]


def test_a_guests_domains_reach_what_each_of_them_maps_and_a_range_comes_off_with_one_call(
    mode: Mode, testbed: Testbed, stack: ExitStack
) -> None:
    memory, boot = (
        stack.enter_context(Memory.allocate(MemoryKind.MEMFD, size, kernel=testbed.kernel))
        for size in (4 * MEBIBYTE, MEBIBYTE)
    )
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=MEBIBYTE, requested_size=memory.size))
    assert ask(device, PLUG, 0, 2) is ACK
    iommu = stack.enter_context(
        GuestIommu(
            device.discards,
            Section(boot, 0, IOVA - boot.size, boot.size),
            device.section,
            max_bytes=memory.size,
            max_mappings=600,
        )
    )
    charged = mode.charged(testbed.kernel)
    spaces, engines, domains = [], [], []
    for address in testbed.devices[:2]:
        space = mode.open(testbed.kernel)
        stack.callback(space.close)
        engines.append(stack.enter_context(Edu(space.open_device(address))))
        domains.append(iommu.open_domain())
        domains[-1].join(space)
        stack.callback(domains[-1].close)
        spaces.append(space)
    first, second = domains
    # The same device address is boot RAM and the region in one, and the region alone in the other.
    first.map(MEBIBYTE, IOVA - PAGE, 2 * PAGE)
    second.map(MEBIBYTE, IOVA + MEBIBYTE, 2 * PAGE)
    boot.write(boot.size - 16, b"the end of boot ")
    memory.write(0, b"and a region")
    memory.write(MEBIBYTE, b"what the second domain maps.")
    engines[0].fetch(MEBIBYTE + PAGE - 16, 28)
    engines[1].fetch(MEBIBYTE, 28)
    engines[1].store(MEBIBYTE + PAGE, 28)
    engines[0].store(MEBIBYTE + PAGE - 8, 28)
    assert memory.read(MEBIBYTE + PAGE, 28) == b"what the second domain maps."
    assert (boot.read(boot.size - 8, 8), memory.read(0, 20)) == (b"the end ", b"of boot and a region")
    for number in range(512):
        first.map(2 * MEBIBYTE + 2 * number * PAGE, IOVA - boot.size + number * 7 % 256 * PAGE, PAGE)
    before = [space.calls.unmap for space in spaces]
    assert first.unmap(0, 64 * MEBIBYTE) == 514 * PAGE
    assert [space.calls.unmap for space in spaces] == [before[0] + 1, before[1]]
    assert spaces[0].mappings() == ()
    assert mode.charged(testbed.kernel) == charged + 2 * PAGE
    first.map(MEBIBYTE, IOVA - PAGE, 2 * PAGE)
    assert ask(device, UNPLUG, 0, 1) is ACK
    assert (first.mappings, len(second.mappings)) == ((), 1)
    engines[0].store(MEBIBYTE, 28)
    assert boot.read(boot.size - PAGE, 28) == bytes(28)
    assert mode.charged(testbed.kernel) == charged + 2 * PAGE


def test_only_what_is_plugged_can_be_dirty(testbed: Testbed, stack: ExitStack) -> None:
    """type1v2 has no help from hardware: whatever is mapped reads as dirty, and nothing else does."""
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 8 * MEBIBYTE, kernel=testbed.kernel))
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=MEBIBYTE, requested_size=memory.size))
    container = stack.enter_context(Container(kernel=testbed.kernel))
    container.open_device(testbed.devices[0])
    mapper = stack.enter_context(DmaMapper(container))
    device.discards.register(mapper, device.section)
    stack.callback(device.discards.unregister, mapper)
    assert ask(device, PLUG, 1, 2) is ACK
    assert ask(device, PLUG, 5, 1) is ACK
    tracker = DirtyTracker(device.discards)
    tracker.start({container: container})
    tracker.sync()
    block = (1 << MEBIBYTE // PAGE) - 1
    expected = sum(block << number * MEBIBYTE // PAGE for number in (1, 2, 5))
    assert int.from_bytes(tracker.take(), "little") == expected
    tracker.stop()


def test_the_next_device_of_a_container_reaches_what_is_plugged(mode: Mode, testbed: Testbed, stack: ExitStack) -> None:
    """A type1 container loses every mapping with its last group; whoever opens the next device need not know."""
    memory = stack.enter_context(Memory.allocate(MemoryKind.MEMFD, 8 * MEBIBYTE, kernel=testbed.kernel))
    device = stack.enter_context(VirtioMem(memory, address=IOVA, block_size=MEBIBYTE, requested_size=memory.size))
    space = mode.open(testbed.kernel)
    stack.callback(space.close)
    opened = space.open_device(testbed.devices[0])
    mapper = stack.enter_context(DmaMapper(space))
    device.discards.register(mapper, device.section)
    stack.callback(device.discards.unregister, mapper)
    assert ask(device, PLUG, 1, 3) is ACK
    charged = mode.charged(testbed.kernel)
    opened.close()
    if isinstance(space, Container):
        space.groups[0].close()
    engine = stack.enter_context(Edu(space.open_device(testbed.devices[1])))
    assert space.mapping_count == 3
    assert mode.charged(testbed.kernel) == charged
    memory.write(MEBIBYTE, b"written by the guest")
    engine.fetch(IOVA + MEBIBYTE, 20)
    engine.store(IOVA + 3 * MEBIBYTE, 20)
    assert memory.read(3 * MEBIBYTE, 20) == b"written by the guest"
    assert device.discards.divergences == ()


KILLED = """
import sys
from pyvfio import Container, LinuxKernel, Memory, MemoryKind
from pyvfio.sim import SimKernel
from virtiomem import DmaMapper, Request, RequestType, VirtioMem

address = sys.argv[2]
kernel = SimKernel(edu_devices=3) if sys.argv[1] == "simulated" else LinuxKernel()
memory = Memory.allocate(MemoryKind.ANONYMOUS, 8 << 20, kernel=kernel)
device = VirtioMem(memory, address=1 << 32, block_size=1 << 20, requested_size=8 << 20)
container = Container(kernel=kernel)
container.open_device(address)
device.discards.register(DmaMapper(container), device.section)
device.handle(bytes(Request(RequestType.PLUG, 1 << 32, 8)))
print(container.mapping_count, flush=True)
sys.stdin.read()
"""


def test_a_process_that_is_killed_leaves_nothing_behind(testbed: Testbed) -> None:
    address = testbed.devices[0]
    command = [sys.executable, "-c", KILLED, testbed.kernel.name, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "8\n"
        if not isinstance(testbed.kernel, SimKernel):
            with Container(kernel=testbed.kernel) as container, pytest.raises(GroupBusy):
                container.open_device(address)
        process.kill()
    with Container(kernel=testbed.kernel) as container:
        container.open_device(address)
        assert container.mappings_left == 65535
