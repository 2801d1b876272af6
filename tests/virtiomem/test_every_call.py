"""All or nothing, call by call: each system call of each operation fails in turn, with each errno it can give.

What is there before and after is asked of the simulated kernel itself: its mappings, the process's pages, VmLck.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from pyvfio import Container, Ioas, Memory, MemoryKind, VfioError
from pyvfio.abi import iommufd, vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Call, Fault, FaultyKernel, Rule, ShortUnmap
from pyvfio.faults.rules import UNMAPS
from pyvfio.sim import SimKernel
from pyvfio.sim.iommufd import IoasState, IommufdFile
from pyvfio.sim.vfio import ContainerState
from tests.support.thorough import stride
from tests.support.virtiomem.fakes import ADDRESS, MIB
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
BLOCK = MIB
BLOCKS = 16
PLUGGED = ((2, 3), (6, 1))
"""First block and count of the runs that are plugged between operations."""

EHWPOISON = 133
IOAS_MAP, IOAS_MAP_FILE = iommufd.IOMMU_IOAS_MAP, iommufd.IOMMU_IOAS_MAP_FILE
IOAS_UNMAP, IOAS_RANGES = iommufd.IOMMU_IOAS_UNMAP, iommufd.IOMMU_IOAS_IOVA_RANGES
MAP, UNMAP, INFO = vfio.VFIO_IOMMU_MAP_DMA, vfio.VFIO_IOMMU_UNMAP_DMA, vfio.VFIO_IOMMU_GET_INFO
ERRNOS: dict[Call, tuple[int, ...]] = {
    # drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map and what pins and maps below it.
    Call("ioctl", MAP): (
        errno.EFAULT,
        errno.EINVAL,
        errno.EOVERFLOW,
        errno.EEXIST,
        errno.ENOSPC,
        errno.ENOMEM,
        errno.EOPNOTSUPP,
        errno.ENODEV,
        errno.EINTR,
    ),
    # The same, vfio_dma_do_unmap; EIO stands for what a driver below may give.
    Call("ioctl", UNMAP): (errno.EFAULT, errno.EINVAL, errno.EOVERFLOW, errno.EBUSY, errno.ENOMEM, errno.EIO),
    Call("ioctl", INFO): (errno.EFAULT, errno.EINVAL, errno.ENOMEM),
    # drivers/iommu/iommufd/ioas.c and io_pagetable.c. EBUSY and EDEADLK may come when some of it is unmapped already.
    Call("ioctl", IOAS_MAP): (
        errno.EFAULT,
        errno.EINVAL,
        errno.EOVERFLOW,
        errno.EEXIST,
        errno.ENOMEM,
        errno.EOPNOTSUPP,
        errno.ENOENT,
    ),
    Call("ioctl", IOAS_MAP_FILE): (
        errno.EBADF,
        errno.EINVAL,
        errno.EOVERFLOW,
        errno.EEXIST,
        errno.ENOMEM,
        errno.EFAULT,
    ),
    Call("ioctl", IOAS_UNMAP): (errno.EINVAL, errno.EOVERFLOW, errno.ENOENT, errno.EBUSY, errno.EDEADLK, errno.ENOMEM),
    Call("ioctl", IOAS_RANGES): (errno.EFAULT, errno.EINVAL, errno.ENOENT, errno.ENOMEM),
    # mm/madvise.c: populate (EINTR is no failure, the call is made again) and discard.
    Call("madvise"): (errno.EINVAL, errno.ENOMEM, errno.EFAULT, EHWPOISON, errno.EAGAIN),
    # mm/shmem.c, mm/hugetlb.c and fs/open.c below fallocate.
    Call("fallocate"): (
        errno.EBADF,
        errno.EFBIG,
        errno.EINTR,
        errno.EINVAL,
        errno.EIO,
        errno.ENODEV,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EOPNOTSUPP,
        errno.EPERM,
    ),
}


class World:
    """A region of 16 blocks over memory of a kind, in as many address spaces as joined, and one that has not."""

    def __init__(self, stack: ExitStack, way: str, kind: MemoryKind, joined: int) -> None:
        self.simulated = SimKernel(edu_devices=joined + 1, populate_on_pin=False, version=VERSIONS[way])
        self.kernel = FaultyKernel(self.simulated)
        self.memory = stack.enter_context(Memory.allocate(kind, BLOCKS * BLOCK, kernel=self.kernel))
        self.device: VirtioMem = stack.enter_context(
            VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=BLOCKS * BLOCK)
        )
        self.spaces: list[Container | Ioas] = []
        for address in edu_addresses(self.simulated):
            space = WAYS[way](self.kernel)
            stack.callback(space.close)
            space.open_device(address)
            self.spaces.append(space)
        self.mappers: list[DmaMapper] = [DmaMapper(space) for space in self.spaces]
        self.newcomer: DmaMapper = self.mappers[-1]
        for mapper in self.mappers[:-1]:
            self.join(mapper)
        stack.callback(self.kernel.arm)
        self.fill()

    def join(self, mapper: DmaMapper) -> None:
        self.device.discards.register(mapper, self.device.section)

    def leave(self, mapper: DmaMapper) -> None:
        self.device.discards.unregister(mapper)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def fill(self) -> None:
        """Plug PLUGGED, and write something to both ends of each block."""
        for start, count in PLUGGED:
            assert self.ask(PLUG, start, count) is ACK
            for block in range(start, start + count):
                self.memory.write(block * BLOCK, f"begin of {block}".encode())
                self.memory.write((block + 1) * BLOCK - 16, f"end of {block}".encode())

    def runs(self) -> list[tuple[int, int]]:
        plugged = self.device.populated_runs(Run(0, self.memory.size))
        return [(run.start // BLOCK, run.size // BLOCK) for run in plugged]

    def mapped(self) -> list[list[tuple[int, int, int]]]:
        """What each simulated address space holds: iova, size, where in the memory."""
        return [held_by(self.simulated, space, self.memory) for space in self.spaces]

    def state(self) -> object:
        """Nothing of this may differ after a failure."""
        content = []
        for start, count in self.runs():
            for block in range(start, start + count):
                content.append(self.memory.read(block * BLOCK, 16) + self.memory.read((block + 1) * BLOCK - 16, 16))
        return (
            self.device.config,
            self.runs(),
            self.mapped(),
            content,
            self.simulated.mincore(self.memory.address, self.memory.size),
            self.charged(),
            self.device.discards.divergences,
        )

    def charged(self) -> int:
        """Bytes pinned, by whichever way."""
        return max(self.simulated.charges.locked, self.simulated.charges.pinned)

    def expect_mirrored(self, spaces: int) -> None:
        """What so many containers hold, page by page, is what is plugged, and charged as often."""
        blocks = [block for start, count in self.runs() for block in range(start, start + count)]
        expected = [(ADDRESS + block * BLOCK, BLOCK, block * BLOCK) for block in blocks]
        assert sorted(map(len, self.mapped())) == sorted([len(blocks)] * spaces + [0] * (len(self.mappers) - spaces))
        assert all(held in (expected, []) for held in self.mapped())
        assert self.charged() == spaces * len(blocks) * BLOCK
        assert self.memory.resident(0, self.memory.size) == len(blocks) * BLOCK
        assert self.device.discards.divergences == ()


@dataclass(frozen=True)
class Operation:
    """act raises, or answers, as it is refused; undo makes everything as it was after act succeeded. joins: by how many
    the address spaces that hold the blocks are more. unmapped: blocks from the unmap's begin to its last mapping."""

    act: Callable[[World], object]
    undo: Callable[[World], object]
    joins: int = 0
    unmapped: int = 7

    def succeeds(self, world: World) -> bool:
        try:
            return self.act(world) in (ACK, None)
        except VfioError:
            return False


OPERATIONS = {
    "plug": Operation(lambda world: world.ask(PLUG, 8, 3), lambda world: world.ask(UNPLUG, 8, 3)),
    "unplug": Operation(lambda world: world.ask(UNPLUG, 2, 2), lambda world: refill(world), unmapped=2),
    "unplug all": Operation(lambda world: world.ask(UNPLUG_ALL), lambda world: refill(world)),
    "system reset": Operation(lambda world: world.device.system_reset(), lambda world: refill(world)),
    "join": Operation(lambda world: world.join(world.newcomer), lambda world: world.leave(world.newcomer), 1),
    "leave": Operation(lambda world: world.leave(world.mappers[0]), lambda world: world.join(world.mappers[0]), -1),
}
WAYS: dict[str, Callable[[FaultyKernel], Container | Ioas]] = {
    "container": lambda kernel: Container(kernel=kernel),
    "iommufd": lambda kernel: Ioas(kernel=kernel),
}
VERSIONS: dict[str, tuple[int, int]] = {"container": (6, 12), "iommufd": (7, 2)}
"""Of Linux: the newer maps files as such."""
ANONYMOUS, MEMFD = MemoryKind.ANONYMOUS, MemoryKind.MEMFD
WORLDS = [
    ("container", ANONYMOUS, 1),
    ("container", ANONYMOUS, 2),
    ("container", MEMFD, 3),
    ("iommufd", MEMFD, 1),
    ("iommufd", ANONYMOUS, 2),
    ("iommufd", ANONYMOUS, 3),
]
"""By which way so many address spaces hold memory of a kind."""


def held_by(kernel: SimKernel, space: Container | Ioas, memory: Memory) -> list[tuple[int, int, int]]:
    if isinstance(space, Ioas):
        iommufd = kernel.process.file(space.iommufd.fd, IommufdFile)
        assert iommufd is not None
        areas = iommufd.context.get(space.id, IoasState).areas
        base = {False: memory.address, True: 0}
        return [
            (area.iova, area.size, area.pages.source.start + area.offset - base[area.pages.source.file is not None])
            for area in areas
        ]
    state = kernel.process.file(space.fd, ContainerState)
    assert state is not None
    return [(mapping.iova, mapping.size, mapping.vaddr - memory.address) for mapping in state.mappings]


def refill(world: World) -> None:
    assert world.ask(UNPLUG_ALL) is ACK
    world.fill()


@contextmanager
def a_world(way: str, kind: MemoryKind, spaces: int) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(stack, way, kind, spaces)
        for mapper in world.mappers:
            stack.callback(leave_if_joined, world, mapper)
        yield world


def leave_if_joined(world: World, mapper: DmaMapper) -> None:
    with suppress(VfioError):
        world.leave(mapper)


def calls_of(world: World, operation: Operation) -> list[Call]:
    """What the operation asks of the kernel when nothing fails, beyond what is only asked once."""
    assert operation.succeeds(world)
    operation.undo(world)
    world.kernel.arm()
    assert operation.succeeds(world)
    calls = [*world.kernel.calls]
    operation.undo(world)
    return calls


def failures_of(operation: Operation, calls: list[Call]) -> Iterator[Rule]:
    """Each call with each errno; each unmap also with some of its blocks left where they are."""
    unmaps = 0
    for nth, call in enumerate(calls):
        for code in ERRNOS[call]:
            yield Fault(nth, errno=code)
        if call.request in UNMAPS:
            for blocks in range(operation.unmapped):
                yield ShortUnmap(unmaps, size=blocks * BLOCK)
            unmaps += 1


@pytest.mark.parametrize(("way", "kind", "spaces"), WORLDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_that_fails_changes_nothing_and_the_next_try_succeeds(
    way: str, name: str, kind: MemoryKind, spaces: int, count_case: Callable[[str], None]
) -> None:
    operation = OPERATIONS[name]
    with a_world(way, kind, spaces) as world:
        calls = calls_of(world, operation)
        before = world.state()
        for failure in list(failures_of(operation, calls))[:: stride(3)]:
            world.kernel.arm(failure)
            assert not operation.succeeds(world), failure
            world.kernel.arm()
            assert world.state() == before, failure
            assert operation.succeeds(world), failure
            world.expect_mirrored(spaces + operation.joins)
            operation.undo(world)
            assert world.state() == before, failure
            count_case("all or nothing, one failing call")


@pytest.mark.parametrize(("way", "spaces"), [("container", 1), ("container", 2), ("container", 3), ("iommufd", 2)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_call_that_fails_on_the_way_back_is_reported_and_repaired(
    way: str, name: str, spaces: int, count_case: Callable[[str], None]
) -> None:
    """The first failure is on the way forward, the second anywhere after it."""
    operation = OPERATIONS[name]
    with a_world(way, ANONYMOUS, spaces) as world:
        calls = calls_of(world, operation)
        before, plugged = world.state(), world.runs()
        for first in range(len(calls)):
            world.kernel.arm(Fault(first, errno=errno.ENOMEM))
            assert not operation.succeeds(world)
            for second in range(first + 1, len(world.kernel.calls), stride(3)):
                world.kernel.arm(Fault(first, errno=errno.ENOMEM), Fault(second, errno=errno.EINVAL))
                assert not operation.succeeds(world)
                world.kernel.arm()
                assert world.runs() == plugged
                if not world.device.discards.divergences:
                    leave_nothing_behind(world)
                    assert world.state() == before
                assert operation.succeeds(world), (first, second)
                world.expect_mirrored(spaces + operation.joins)
                operation.undo(world)
                assert world.state() == before, (first, second)
                count_case("all or nothing, two failing calls")


def leave_nothing_behind(world: World) -> None:
    """Memory of unplugged blocks that could not be discarded is, before anything is plugged."""
    assert world.ask(PLUG, 15, 1) is ACK
    assert world.ask(UNPLUG, 15, 1) is ACK


def test_an_interrupted_populate_is_made_again() -> None:
    with a_world("container", ANONYMOUS, 1) as world:
        world.kernel.arm(Fault(0, "madvise", errno=errno.EINTR))
        assert world.ask(PLUG, 8, 3) is ACK
        world.expect_mirrored(1)


def test_every_call_has_its_errnos() -> None:
    """The table above names every call that is made, and no other."""
    made: set[Call] = set()
    for way in WAYS:
        for kind in (ANONYMOUS, MEMFD):
            with a_world(way, kind, 1) as world:
                for operation in OPERATIONS.values():
                    made |= set(calls_of(world, operation))
    assert made == set(ERRNOS)
    assert all(os.strerror(code) for codes in ERRNOS.values() for code in codes)
