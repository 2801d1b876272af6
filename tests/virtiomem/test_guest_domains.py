"""A guest's IOMMU with several domains, and with memory that is always there beside what comes and goes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from pyvfio import Container, Memory, MemoryKind
from pyvfio.abi import vfio
from pyvfio.dma import Access
from pyvfio.drivers.edu import edu_addresses
from pyvfio.errors import ClosedError, InvalidArgument, VfioError
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.iommu import FaultySpace, World, expected_of
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination, DiscardRefused, DiscardUse, RamDiscardManager, Section
from virtiomem.mapping import GuestDomain, GuestIommu, GuestMapping, Refusal

ACK, NACK, BUSY, ERROR = ResponseType
PAGE = 4096
READ_WRITE = Access.READ_WRITE


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Domains(World):
    """Two domains, each with an address space, and four blocks of boot RAM below the region."""

    def __init__(self, stack: ExitStack, **limits: Any) -> None:
        super().__init__(stack, spaces=1, boot_blocks=4, **limits)
        self.second = self.iommu.open_domain("another domain")
        self.other = FaultySpace(7, self.faults)
        self.second.join(self.other)
        self.domains = (self.domain, self.second)

    def expect_in_step(self) -> None:
        for domain in self.domains:
            for space in domain.spaces:
                assert space.mappings() == expected_of(domain)
        assert self.iommu.divergences == self.device.discards.divergences == ()


def test_a_domain_is_an_address_space_of_its_own(stack: ExitStack) -> None:
    world = Domains(stack)
    world.domain.map(0, ADDRESS, PAGE)
    world.second.map(0, ADDRESS + PAGE, 2 * PAGE, Access.READ)
    assert world.domain.mappings == (GuestMapping(0, ADDRESS, PAGE, READ_WRITE),)
    assert world.second.mappings == (GuestMapping(0, ADDRESS + PAGE, 2 * PAGE, Access.READ),)
    world.expect_in_step()
    assert (world.iommu.mapped_bytes, world.iommu.mapping_count) == (3 * PAGE, 2)
    assert world.domain.unmap(0, PAGE) == PAGE
    assert (len(world.spaces[0].mappings()), len(world.other.mappings())) == (0, 1)
    assert world.iommu.domains == world.domains


def test_an_address_space_is_in_one_domain_at_a_time(stack: ExitStack) -> None:
    world = Domains(stack)
    world.domain.map(0, ADDRESS, PAGE)
    world.second.map(BLOCK, ADDRESS, PAGE)
    space = world.spaces[0]
    with pytest.raises(InvalidArgument, match="it has joined domain 1 already"):
        world.second.join(space)
    with pytest.raises(InvalidArgument, match="it never joined"):
        world.second.leave(space)
    world.domain.leave(space)
    world.second.join(space)
    assert space.mappings() == world.other.mappings()
    assert (world.domain.spaces, world.second.spaces) == ((), (world.other, space))
    world.expect_in_step()


def test_the_limits_are_the_guests_in_all_of_its_domains(stack: ExitStack) -> None:
    world = Domains(stack, max_bytes=4 * PAGE, max_mappings=3)
    world.domain.map(0, ADDRESS, 2 * PAGE)
    world.second.map(0, ADDRESS, PAGE)
    assert world.refused(lambda: world.second.map(BLOCK, ADDRESS, 2 * PAGE)) is Refusal.TOO_MANY_BYTES
    # It lies in two memories, which are two mappings of an address space.
    assert world.refused(lambda: world.second.map(BLOCK, ADDRESS - PAGE, 2 * PAGE)) is Refusal.TOO_MANY_MAPPINGS
    world.second.map(BLOCK, ADDRESS, PAGE)
    assert world.refused(lambda: world.domain.map(BLOCK, ADDRESS, PAGE)) is Refusal.TOO_MANY_MAPPINGS
    world.domain.close()
    world.second.map(2 * BLOCK, ADDRESS, 2 * PAGE)
    assert world.iommu.refusals == {Refusal.TOO_MANY_BYTES: 1, Refusal.TOO_MANY_MAPPINGS: 2}


def test_a_mapping_may_lie_in_boot_ram_in_the_region_and_in_both(stack: ExitStack) -> None:
    world = Domains(stack)
    space = world.spaces[0]
    world.domain.map(0, ADDRESS - BLOCK, PAGE)
    world.domain.map(BLOCK, ADDRESS - PAGE, 3 * PAGE)
    boot, region = space.mappings()[1:]
    assert (boot.memory, boot.iova, boot.offset, boot.size) == (world.boot, BLOCK, 4 * BLOCK - PAGE, PAGE)
    assert (region.memory, region.iova, region.offset, region.size) == (world.memory, BLOCK + PAGE, 0, 2 * PAGE)
    (mapping,) = world.domain.mappings[1:]
    assert [run.size for run in mapping.runs_of(world.memory)] == [2 * PAGE]
    assert world.refused(lambda: world.domain.map(0, ADDRESS - 4 * BLOCK - PAGE, PAGE)) is Refusal.OUTSIDE
    assert world.refused(lambda: world.domain.map(4 * BLOCK, ADDRESS - BLOCK, 6 * BLOCK)) is Refusal.DISCARDED
    assert world.refused(lambda: world.domain.unmap(BLOCK + PAGE, 2 * PAGE)) is Refusal.SPLIT
    world.expect_in_step()


def test_boot_ram_stays_mapped_and_what_lies_in_both_is_revoked_whole(stack: ExitStack) -> None:
    told: list[tuple[GuestDomain, list[GuestMapping]]] = []
    world = Domains(stack)
    world.iommu.close()
    iommu = stack.enter_context(
        GuestIommu(
            world.device.discards,
            world.device.section,
            Section(world.boot, 0, ADDRESS - 4 * BLOCK, 4 * BLOCK),
            max_bytes=16 * BLOCK,
            max_mappings=16,
            coordination=world.coordination,
            revoked=lambda domain, mappings: told.append((domain, list(mappings))),
        )
    )
    first, second = world.domains = iommu.open_domain(), iommu.open_domain()
    first.join(world.spaces[0])
    second.join(world.other)
    first.map(0, ADDRESS - BLOCK, BLOCK)
    first.map(BLOCK, ADDRESS - BLOCK, 3 * BLOCK)
    second.map(0, ADDRESS + BLOCK, PAGE)
    always, both = first.mappings
    other = second.mappings
    assert world.unplug(1) is ACK
    assert told == [(first, [both]), (second, list(other))]
    assert (first.mappings, second.mappings) == ((always,), ())
    assert world.ask(RequestType.UNPLUG_ALL) is ACK
    assert first.mappings == (always,)
    assert world.spaces[0].mappings() == expected_of(first) != ()


OPERATIONS: dict[str, Callable[[Domains], object]] = {
    "map in both memories": lambda world: world.second.map(8 * BLOCK, ADDRESS - PAGE, 2 * PAGE),
    "unmap": lambda world: world.domain.unmap(0, 8 * BLOCK),
    "unplug": lambda world: world.unplug(0, 2),
    "leave": lambda world: world.domain.leave(world.spaces[0]),
    "close a domain": lambda world: world.domain.close(),
    "close": lambda world: world.iommu.close(),
}


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_failure_changes_nothing_in_any_domain_and_the_next_try_succeeds(name: str, short: bool) -> None:
    operation, step, steps = OPERATIONS[name], 0, 1
    while step < steps:
        with ExitStack() as stack:
            world = Domains(stack)
            world.spaces[0].short = world.other.short = short
            world.domain.join(FaultySpace(8, world.faults, short=short))
            world.domain.map(0, ADDRESS - BLOCK, PAGE)
            world.domain.map(BLOCK, ADDRESS - BLOCK, 2 * BLOCK)
            world.second.map(0, ADDRESS + BLOCK, 2 * PAGE)
            before = [domain.mappings for domain in world.domains]
            joined = [domain.spaces for domain in world.domains]
            world.faults.arm(step)
            with suppress(VfioError):
                assert operation(world) is BUSY
            assert [domain.mappings for domain in world.domains] == before
            assert [domain.spaces for domain in world.domains] == joined
            world.expect_in_step()
            assert world.gone == []
            world.faults.disarm()
            assert operation(world) in (ACK, None, PAGE + 2 * BLOCK)
            step, steps = step + 1, len(world.faults.steps)


def test_what_of_boot_ram_cannot_be_mapped_again_is_a_divergence_until_it_is(stack: ExitStack) -> None:
    world = Domains(stack)
    first = world.spaces[0]
    second = FaultySpace(8, world.faults)
    world.domain.join(second)
    world.domain.map(0, ADDRESS - BLOCK, 2 * PAGE)
    # The one that joined last lets go, the first one does not, and the last one does not take it again.
    world.faults.arm(every_from=1)
    assert world.refused(lambda: world.domain.unmap(0, 2 * PAGE)) is Refusal.HOST
    assert (len(first.mappings()), second.mappings()) == (1, ())
    (divergence,) = world.iommu.divergences
    assert (divergence.stale, divergence.section.memory, divergence.section.size) == (False, world.boot, 2 * PAGE)
    assert "domain 1" in str(divergence)
    assert world.device.discards.divergences == ()
    world.faults.disarm()
    world.domain.map(BLOCK, ADDRESS - BLOCK, PAGE)
    world.expect_in_step()
    assert len(second.mappings()) == 2


def test_a_closed_domain_takes_nothing_and_lets_its_address_spaces_go(stack: ExitStack) -> None:
    world = Domains(stack)
    world.domain.map(0, ADDRESS - PAGE, 2 * PAGE)
    world.domain.close()
    world.domain.close()
    assert world.domain.closed
    assert (world.domain.mappings, world.spaces[0].mappings(), world.iommu.mapped_bytes) == ((), (), 0)
    assert list(world.iommu.domains) == [world.second]
    for act in (
        lambda: world.domain.map(0, ADDRESS, PAGE),
        lambda: world.domain.unmap(0, PAGE),
        lambda: world.domain.join(world.spaces[0]),
        lambda: world.domain.leave(world.spaces[0]),
    ):
        with pytest.raises(ClosedError, match="domain 1"):
            act()
    world.second.join(world.spaces[0])
    world.iommu.close()
    assert world.iommu.domains == ()
    assert world.second.closed
    with pytest.raises(ClosedError, match="guest IOMMU"):
        world.iommu.open_domain()


def test_what_is_closed_counts_as_unmapped_and_not_as_revoked(stack: ExitStack) -> None:
    revoked: list[GuestMapping] = []
    unmapped: list[tuple[GuestDomain, GuestMapping]] = []
    world = World(stack)
    world.iommu.close()
    iommu = stack.enter_context(
        GuestIommu(
            world.device.discards,
            world.device.section,
            max_bytes=BLOCK,
            max_mappings=8,
            revoked=lambda _, mappings: revoked.extend(mappings),
            unmapped=lambda domain, mappings: unmapped.extend((domain, mapping) for mapping in mappings),
        )
    )
    first, second = iommu.open_domain(), iommu.open_domain()
    first.map(0, ADDRESS, PAGE)
    second.map(PAGE, ADDRESS, PAGE)
    expected = [(first, *first.mappings), (second, *second.mappings)]
    first.close()
    iommu.close()
    assert unmapped == expected
    assert revoked == []


def test_nobody_may_discard_boot_ram_while_a_guest_maps_it(stack: ExitStack) -> None:
    world = Domains(stack)
    claims = DiscardCoordination.of(world.boot)
    for use in (DiscardUse.REQUIRE, DiscardUse.REQUIRE_COORDINATED):
        with pytest.raises(DiscardRefused, match="guest IOMMU"):
            claims.hold(use, "balloon")
    world.iommu.close()
    boot = Section(world.boot, 0, 0, BLOCK)
    with claims.hold(DiscardUse.REQUIRE, "balloon"), pytest.raises(DiscardRefused, match="balloon"):
        GuestIommu(world.device.discards, world.device.section, boot, max_bytes=1, max_mappings=1)
    # It left nothing behind.
    assert world.device.discards.sections(world.iommu) == ()
    DiscardCoordination.of(world.memory).hold(DiscardUse.DISABLE, "mlock").release()


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ([(0, 0, BLOCK), (BLOCK, BLOCK - PAGE, BLOCK)], "over another section"),
        ([(0, 0, 0)], "it is empty"),
        ([(0, -PAGE, BLOCK)], "over another section"),
    ],
)
def test_what_is_no_memory_of_a_guest(stack: ExitStack, sections: list[tuple[int, int, int]], match: str) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK))
    given = [Section(memory, offset, address, size) for offset, address, size in sections]
    with pytest.raises(InvalidArgument, match=match):
        GuestIommu(RamDiscardManager(memory), *given, max_bytes=1, max_mappings=1)


def test_a_guest_of_boot_ram_alone_and_one_without_any_section_of_its_manager(stack: ExitStack) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK))
    section = Section(memory, 0, 0, memory.size)
    with pytest.raises(InvalidArgument, match="none of the sections"):
        GuestIommu(RamDiscardManager(memory, offset=BLOCK), Section(memory, 0, 0, BLOCK), max_bytes=1, max_mappings=1)
    with GuestIommu(RamDiscardManager(memory), section, max_bytes=BLOCK, max_mappings=1) as iommu:
        iommu.open_domain().map(0, PAGE, PAGE)


def test_two_regions_and_boot_ram_of_one_memory_have_one_manager(stack: ExitStack) -> None:
    memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 24 * BLOCK))
    discards = RamDiscardManager(memory, offset=7 * BLOCK, size=16 * BLOCK)
    devices = [
        stack.enter_context(
            VirtioMem(
                memory,
                address=address,
                block_size=BLOCK,
                requested_size=8 * BLOCK,
                region_offset=offset,
                region_size=8 * BLOCK,
                discards=discards,
            )
        )
        for offset, address in ((7 * BLOCK, ADDRESS), (15 * BLOCK, ADDRESS + 8 * BLOCK))
    ]
    iommu = stack.enter_context(
        GuestIommu(
            discards,
            Section(memory, 0, ADDRESS - 7 * BLOCK, 7 * BLOCK),
            *(device.section for device in devices),
            max_bytes=memory.size,
            max_mappings=64,
        )
    )
    domain = iommu.open_domain()

    def ask(device: VirtioMem, kind: RequestType, address: int, count: int) -> ResponseType:
        return Response.parse(device.handle(bytes(Request(kind, address, count)))).type

    domain.map(0, ADDRESS - BLOCK, BLOCK)
    assert ask(devices[0], RequestType.PLUG, ADDRESS, 2) is ACK
    domain.map(BLOCK, ADDRESS - 2 * BLOCK, 4 * BLOCK)
    assert domain.unmap(BLOCK, 4 * BLOCK) == 4 * BLOCK
    assert ask(devices[0], RequestType.PLUG, ADDRESS + 7 * BLOCK, 1) is ACK
    assert ask(devices[1], RequestType.PLUG, ADDRESS + 8 * BLOCK, 1) is ACK
    domain.map(BLOCK, ADDRESS + 7 * BLOCK, 2 * BLOCK)
    domain.map(8 * BLOCK, ADDRESS + 7 * BLOCK, BLOCK)
    assert [len(mapping.parts) for mapping in domain.mappings] == [1, 2, 1]
    assert ask(devices[1], RequestType.UNPLUG, ADDRESS + 8 * BLOCK, 1) is ACK
    assert [mapping.iova for mapping in domain.mappings] == [0, 8 * BLOCK]


def test_a_large_page_of_an_address_space_is_the_unit_of_every_domain(stack: ExitStack) -> None:
    world = Domains(stack)

    class Large(FaultySpace):
        page_sizes = (2 * PAGE,)

    large = Large(9, world.faults)
    world.second.join(large)
    world.second.leave(large)
    assert world.refused(lambda: world.domain.map(0, ADDRESS, PAGE)) is Refusal.INVALID
    world.domain.map(0, ADDRESS, 2 * PAGE)


class Machine:
    """Boot RAM and a region, behind the container of one of two devices."""

    def __init__(self, stack: ExitStack) -> None:
        self.kernel = FaultyKernel(SimKernel(edu_devices=2))
        self.addresses = edu_addresses(self.kernel)
        memory, boot = (
            stack.enter_context(Memory.allocate(MemoryKind.MEMFD, 8 * BLOCK, kernel=self.kernel)) for _ in range(2)
        )
        self.device = stack.enter_context(
            VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size)
        )
        assert not any(self.device.handle(bytes(Request(RequestType.PLUG, ADDRESS, 4))))
        self.container = stack.enter_context(Container(kernel=self.kernel))
        self.container.open_device(self.addresses[0])
        self.iommu = stack.enter_context(
            GuestIommu(
                self.device.discards,
                self.device.section,
                Section(boot, 0, 0, boot.size),
                max_bytes=memory.size,
                max_mappings=8,
            )
        )
        self.domain = self.iommu.open_domain()
        self.domain.join(self.container)
        self.domain.map(0, 0, PAGE)
        self.domain.map(BLOCK, ADDRESS, PAGE)


def test_the_next_device_finds_boot_ram_and_the_region_mapped_or_is_refused(stack: ExitStack) -> None:
    machine = Machine(stack)
    expected = machine.container.mappings()
    for group in machine.container.groups:
        group.close()
    assert machine.container.mappings() == ()
    assert sorted(each.section.offset_within_address_space for each in machine.iommu.divergences) == [0, ADDRESS]
    machine.kernel.arm(Fault(request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
    with pytest.raises(VfioError, match="guest IOMMU does not hold"):
        machine.container.open_device(machine.addresses[1])
    machine.kernel.arm()
    machine.container.open_device(machine.addresses[1])
    assert machine.container.mappings() == expected
    assert machine.iommu.divergences == ()


def test_boot_ram_that_somebody_unmapped_is_told_and_repaired(stack: ExitStack) -> None:
    machine = Machine(stack)
    expected = machine.container.mappings()
    machine.container.unmap_all()
    assert len(machine.iommu.divergences) == 2
    assert machine.iommu.repair() == ()
    assert machine.container.mappings() == expected
