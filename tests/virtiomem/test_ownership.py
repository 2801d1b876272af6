"""Whose mapping is whose: what a mapper has not mapped it does not take for its own, and what it has mapped it keeps.

Over containers of the simulated kernel, which is asked what it holds.
"""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyvfio import Container, Memory, MemoryKind
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.errors import AlreadyMapped, ClosedError, VfioError
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from virtiomem.control import DeviceStatus, ManagedDevice
from virtiomem.device import BusyReason, Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import Section
from virtiomem.mapping import DmaMapper, GuestIommu
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
BLOCKS = 16


class World:
    """A region of 16 blocks, two devices to be had, and a container with the first one, which a mapper has joined."""

    def __init__(self, stack: ExitStack, *, limit: int = 65535) -> None:
        self.kernel = FaultyKernel(SimKernel(edu_devices=2, dma_entry_limit=limit))
        self.addresses = edu_addresses(self.kernel)
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.MEMFD, BLOCKS * BLOCK, kernel=self.kernel))
        self.device = stack.enter_context(self.another(ADDRESS, self.memory))
        self.container = stack.enter_context(Container(kernel=self.kernel))
        self.opened = self.container.open_device(self.addresses[0])
        self.mapper = DmaMapper(self.container)
        self.device.discards.register(self.mapper, self.device.section)

    def another(self, address: int, memory: Memory) -> VirtioMem:
        return VirtioMem(memory, address=address, block_size=BLOCK, requested_size=memory.size, name=f"{address:#x}")

    def ask(self, kind: RequestType, block: int = 0, count: int = 0, device: VirtioMem | None = None) -> ResponseType:
        device = device or self.device
        request = Request(kind, device.config.addr + block * BLOCK, count)
        return Response.parse(device.handle(bytes(request))).type

    def mapped(self) -> list[int]:
        """The blocks that the kernel has mapped for the container."""
        return [
            (mapping.iova - ADDRESS) // BLOCK
            for container in self.kernel.kernel.containers  # type: ignore[attr-defined]
            for mapping in container.mappings
        ]

    def last_group_leaves(self) -> None:
        self.opened.close()
        self.container.groups[0].close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(stack: ExitStack) -> World:
    return World(stack)


SECONDS: dict[str, Callable[[World], tuple[DmaMapper, Section]]] = {
    "a second mapper of the section": lambda world: (DmaMapper(world.container), world.device.section),
    "a second mapper of a part of it": lambda world: (DmaMapper(world.container), part(world, 2, 2)),
    "the same mapper, for a part of it": lambda world: (world.mapper, part(world, 0, 1)),
    "the same memory elsewhere, over its end": lambda world: (
        DmaMapper(world.container),
        Section(world.memory, 0, ADDRESS + 15 * BLOCK, 2 * BLOCK),
    ),
}


def part(world: World, block: int, count: int) -> Section:
    section = world.device.section.intersect(Run(block * BLOCK, count * BLOCK))
    assert section is not None
    return section


@pytest.mark.parametrize("plugged", [0, 4])
@pytest.mark.parametrize("name", SECONDS)
def test_a_section_over_another_is_refused_when_it_registers(world: World, name: str, plugged: int) -> None:
    if plugged:
        assert world.ask(PLUG, 0, plugged) is ACK
    second, section = SECONDS[name](world)
    with pytest.raises(AlreadyMapped, match="belongs to the DMA mapper of container of group 3"):
        world.device.discards.register(second, section)
    assert world.mapped() == list(range(plugged))
    assert world.ask(PLUG, 8, 1) is ACK
    assert world.mapped() == [*range(plugged), 8]
    assert world.device.discards.divergences == ()
    if second is not world.mapper:
        second.close()


def test_regions_beside_each_other_share_a_container_with_a_mapper_each(world: World, stack: ExitStack) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.MEMFD, 4 * BLOCK, kernel=world.kernel))
    beside = stack.enter_context(world.another(ADDRESS + BLOCKS * BLOCK, memory))
    beside.discards.register(DmaMapper(world.container), beside.section)
    assert (world.ask(PLUG, 15, 1), world.ask(PLUG, 0, 1, beside)) == (ACK, ACK)
    assert world.mapped() == [15, 16]
    third = stack.enter_context(Memory.allocate(MemoryKind.MEMFD, 4 * BLOCK, kernel=world.kernel))
    overlapping = stack.enter_context(world.another(ADDRESS + (BLOCKS + 3) * BLOCK, third))
    with pytest.raises(AlreadyMapped, match="0x1_0200_0000-0x1_027f_ffff belongs to"):
        overlapping.discards.register(DmaMapper(world.container), overlapping.section)


def test_a_section_over_a_mapping_of_the_programs_own_is_refused(world: World) -> None:
    world.device.discards.unregister(world.mapper)
    world.container.map_dma(ADDRESS + 4 * BLOCK, world.memory, 4 * BLOCK, BLOCK)
    with pytest.raises(AlreadyMapped, match="is mapped already, by somebody else"):
        world.device.discards.register(world.mapper, world.device.section)
    assert world.mapped() == [4]
    world.container.unmap_dma(ADDRESS + 4 * BLOCK, BLOCK)
    world.device.discards.register(world.mapper, world.device.section)
    assert world.ask(PLUG, 4, 1) is ACK


def test_what_the_program_maps_where_a_block_will_be_is_not_taken_for_the_blocks(world: World) -> None:
    """It is the block's own memory in the block's own place, and yet it is the program's."""
    assert world.ask(PLUG, 0, 2) is ACK
    world.container.map_dma(ADDRESS + 4 * BLOCK, world.memory, 4 * BLOCK, BLOCK)
    for request in ((PLUG, 3, 2), (UNPLUG_ALL, 0, 0)):
        assert world.ask(*request) is BUSY
        assert world.mapped() == [0, 1, 4]
        assert world.device.discards.divergences == ()
    world.container.unmap_dma(ADDRESS + 4 * BLOCK, BLOCK)
    assert world.ask(PLUG, 3, 2) is ACK
    assert world.ask(UNPLUG_ALL) is ACK
    assert world.mapped() == []


def test_a_claim_goes_with_the_registration_and_with_a_mapper_that_is_dropped(world: World) -> None:
    world.device.discards.unregister(world.mapper)
    second = DmaMapper(world.container)
    world.device.discards.register(second, world.device.section)
    world.device.discards.unregister(second)
    with pytest.raises(ClosedError):
        closed(second).accept(world.device.section, BLOCK)
    memory = Memory.allocate(MemoryKind.MEMFD, 4 * BLOCK, kernel=world.kernel)
    dropped = world.another(ADDRESS, memory)
    dropped.discards.register(DmaMapper(world.container), dropped.section)
    dropped.close()
    memory.close()
    del dropped
    gc.collect()
    world.device.discards.register(world.mapper, world.device.section)


def closed(mapper: DmaMapper) -> DmaMapper:
    mapper.close()
    return mapper


@pytest.mark.parametrize("plugged", [0, 4])
def test_a_mapper_that_is_registered_is_not_closed(world: World, plugged: int) -> None:
    if plugged:
        world.ask(PLUG, 0, plugged)
    with pytest.raises(VfioError, match="is registered for 0x1_0000_0000-0x1_01ff_ffff"):
        world.mapper.close()
    assert world.ask(PLUG, 8, 1) is ACK
    assert world.mapped() == [*range(plugged), 8]
    world.device.discards.unregister(world.mapper)
    world.mapper.close()
    world.mapper.close()


def test_a_guests_iommu_and_a_mapper_do_not_share_an_address_space(world: World) -> None:
    with GuestIommu(world.device.discards, world.device.section, max_bytes=BLOCK, max_mappings=4) as iommu:
        domain = iommu.open_domain()
        with pytest.raises(AlreadyMapped, match="belongs to the DMA mapper"):
            domain.join(world.container)
        world.device.discards.unregister(world.mapper)
        domain.join(world.container)
        with pytest.raises(AlreadyMapped, match="belongs to the guest IOMMU"):
            world.device.discards.register(world.mapper, world.device.section)
        domain.leave(world.container)
        world.device.discards.register(world.mapper, world.device.section)


def test_a_guest_mapping_that_is_refused_takes_nobody_elses_away(world: World) -> None:
    world.device.discards.unregister(world.mapper)
    world.ask(PLUG, 0, 4)
    with GuestIommu(world.device.discards, world.device.section, max_bytes=BLOCK, max_mappings=4) as iommu:
        domain = iommu.open_domain()
        domain.join(world.container)
        world.container.map_dma(0, world.memory, 0, 4096)
        with pytest.raises(VfioError, match="by somebody else"):
            domain.map(0, ADDRESS, 4096)
        assert [run.iova for run in world.container.mappings()] == [0]
        assert domain.mappings == ()


def test_the_next_device_finds_all_that_is_plugged(world: World) -> None:
    world.ask(PLUG, 0, 4)
    world.ask(PLUG, 8, 1)
    world.last_group_leaves()
    assert world.mapped() == []
    first, second = world.device.discards.divergences
    assert (first.stale, first.section.run, second.section.run) == (False, Run(0, 4 * BLOCK), Run(8 * BLOCK, BLOCK))
    world.container.open_device(world.addresses[1])
    assert world.mapped() == [0, 1, 2, 3, 8]
    assert not world.device.discards.divergences
    assert world.ask(UNPLUG, 0, 4) is ACK
    assert world.mapped() == [8]


def test_the_next_device_is_refused_if_what_is_plugged_cannot_be_mapped_for_it(world: World) -> None:
    world.ask(PLUG, 0, 4)
    world.last_group_leaves()
    world.kernel.arm(Fault(0, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
    with pytest.raises(
        VfioError, match=r"attach a group .* does not hold 0x1_0000_0000-0x1_007f_ffff .*no memory left"
    ):
        world.container.open_device(world.addresses[1])
    world.kernel.arm()
    assert world.container.groups == ()
    world.container.open_device(world.addresses[1])
    assert world.mapped() == [0, 1, 2, 3]


def test_while_no_device_is_in_a_container_blocks_come_off_and_none_is_added(world: World) -> None:
    world.ask(PLUG, 0, 4)
    world.last_group_leaves()
    assert world.ask(PLUG, 8, 1) is BUSY
    assert world.ask(UNPLUG, 0, 2) is ACK
    assert [divergence.section.run for divergence in world.device.discards.divergences] == [Run(2 * BLOCK, 2 * BLOCK)]
    group = world.container.open_group(3)
    world.container.detach(group)
    world.container.attach(group)
    assert world.mapped() == [2, 3]
    assert world.ask(PLUG, 8, 1) is ACK
    assert world.mapped() == [2, 3, 8]


def test_a_guests_mappings_are_there_for_the_next_device(world: World) -> None:
    world.device.discards.unregister(world.mapper)
    world.ask(PLUG, 0, 4)
    with GuestIommu(world.device.discards, world.device.section, max_bytes=4 * BLOCK, max_mappings=4) as iommu:
        domain = iommu.open_domain()
        domain.join(world.container)
        domain.map(0, ADDRESS + BLOCK, 4096)
        domain.map(ADDRESS, ADDRESS + 2 * BLOCK, 4096)
        world.last_group_leaves()
        assert [each.stale for each in world.device.discards.divergences] == [False, False]
        world.container.open_device(world.addresses[1])
        assert [run.iova for run in world.container.mappings()] == [0, ADDRESS]
        assert world.device.discards.divergences == ()


def test_an_address_space_that_is_closed_is_let_go_with_one_line(
    world: World, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = stack.enter_context(Container(kernel=world.kernel))
    other.open_device(world.addresses[1])
    world.device.discards.register(DmaMapper(other), world.device.section)
    world.ask(PLUG, 0, 4)
    world.container.close()
    assert (world.ask(PLUG, 8, 2), world.ask(UNPLUG, 0, 1)) == (ACK, ACK)
    assert other.mapping_count == 5
    assert world.device.discards.divergences == ()
    (line,) = caplog.records
    assert "its address space is closed, and its mappings are gone with it; all goes on without it" in line.message
    managed = ManagedDevice(world.device, Nobody(), "memfd", 4096, lambda: (world.container, other))
    assert [space.mappings for space in DeviceStatus.of(managed).address_spaces] == [0, 5]
    world.device.discards.unregister(world.mapper)
    world.mapper.close()
    with pytest.raises(ClosedError):
        world.device.discards.register(DmaMapper(world.container), world.device.section)


class Nobody:
    state = "nobody"
    waiting_for = None


def test_a_guests_iommu_lets_go_of_an_address_space_that_is_closed(
    world: World, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world.device.discards.unregister(world.mapper)
    other = stack.enter_context(Container(kernel=world.kernel))
    other.open_device(world.addresses[1])
    world.ask(PLUG, 0, 4)
    with GuestIommu(world.device.discards, world.device.section, max_bytes=4 * BLOCK, max_mappings=4) as iommu:
        domain = iommu.open_domain()
        domain.join(world.container)
        domain.join(other)
        domain.map(0, ADDRESS, 4096)
        world.container.close()
        caplog.clear()
        domain.map(4096, ADDRESS + 4096, 4096)
        assert domain.unmap(0, 4096) == 4096
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert [run.iova for run in other.mappings()] == [4096]


def test_a_plug_beyond_the_mappings_left_touches_no_memory(stack: ExitStack) -> None:
    world = World(stack, limit=6)
    assert world.ask(PLUG, 0, 2) is ACK
    world.kernel.arm()
    assert world.ask(PLUG, 4, 5) is BUSY
    assert {call.name for call in world.kernel.calls} == {"ioctl"}
    assert world.memory.resident(0, world.memory.size) == 2 * BLOCK
    assert world.device.statistics.refusals == {BusyReason.NO_MAPPINGS_LEFT: 1}
    assert world.ask(PLUG, 4, 4) is ACK
    assert world.mapped() == [0, 1, 4, 5, 6, 7]
