"""All or nothing for signals, too: a KeyboardInterrupt at each place of a request in turn, and what is true afterwards.

In our own code: an address space and memory have tests of their own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest

import virtiomem
from pyvfio.memory import Memory, MemoryKind
from tests.support.thorough import stride
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.iommu import expected_of
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import Section
from virtiomem.mapping import DmaMapper, GuestIommu
from virtiomem.runs import Run, subtract
from virtiomem.trace import DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
SOURCES = Path(virtiomem.__file__).parent
INSIDE = (*(str(SOURCES / room) for room in ("device", "discard", "mapping")), contextlib.__file__)
BLOCKS = 16
PAGE = 4096
REQUESTS = {"plug": (PLUG, 4, 3), "unplug": (UNPLUG, 1, 2), "unplug all": (UNPLUG_ALL, 0, 0)}


class World:
    """16 blocks, of which 0 to 3 and 9 are plugged, mapped into two address spaces."""

    def __init__(self, stack: ExitStack) -> None:
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK))
        self.device = stack.enter_context(
            VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=self.memory.size)
        )
        self.spaces = [RecordingAddressSpace(number, DmaLog()) for number in range(2)]
        for space in self.spaces:
            mapper = DmaMapper(space)
            self.device.discards.register(mapper, self.device.section)
            stack.callback(self.device.discards.unregister, mapper)
        assert (self.ask(PLUG, 0, 4), self.ask(PLUG, 9, 1)) == (ACK, ACK)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def expect_consistent(self) -> None:
        plugged = list(self.device.populated_runs(Run(0, self.memory.size)))
        assert self.device.config.plugged_size == sum(run.size for run in plugged)
        for run in subtract([Run(0, self.memory.size)], plugged):
            assert self.memory.resident(run.start, run.size) == 0
        assert not self.device.discards.divergences
        for space in self.spaces:
            assert [Run(run.offset, run.size) for run in space.mappings()] == plugged


def interrupted(function: Callable[[], object], at: int) -> bool:
    """Run function with a KeyboardInterrupt at the at-th place where Python would run a signal handler in our code."""
    places = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal places
        # As a function is entered, and after one in C has returned; never between the entering and the body of a with.
        entered = getattr(argument, "__name__", "") == "__enter__"
        if event in ("call", "c_return") and not entered and frame.f_code.co_filename.startswith(INSIDE):
            places += 1
            if places == at:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return places >= at


# Where a generator is being closed, Python drops what is raised, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", REQUESTS)
def test_wherever_a_request_is_interrupted_the_next_one_finds_all_in_step(name: str) -> None:
    at, ended = 0, False
    while not ended:
        at += stride(11)
        with ExitStack() as stack:
            world = World(stack)
            ended = not interrupted(lambda world=world: world.ask(*REQUESTS[name]), at)  # type: ignore[misc]
            assert world.ask(PLUG, 12, 1) is ACK, at
            world.expect_consistent()
    assert at > 100


class GuestWorld(World):
    """The same memory, of which a guest has mapped some, and boot RAM, in two domains: the first in two spaces."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        boot = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCK))
        self.iommu = GuestIommu(
            self.device.discards,
            Section(boot, 0, ADDRESS - BLOCK, BLOCK),
            self.device.section,
            max_bytes=self.memory.size,
            max_mappings=16,
        )
        stack.callback(self.iommu.close)
        self.guests = [RecordingAddressSpace(number, DmaLog()) for number in range(2, 6)]
        self.first, self.second = self.iommu.open_domain(), self.iommu.open_domain()
        for space, domain in zip(self.guests, (self.first, self.first, self.second), strict=False):
            domain.join(space)
        for iova, offset in ((0, 0), (8 * PAGE, -PAGE), (16 * PAGE, BLOCK), (24 * PAGE, -BLOCK)):
            self.first.map(iova, ADDRESS + offset, 2 * PAGE)
        self.second.map(0, ADDRESS + BLOCK, PAGE)

    def expect_guest_in_step(self) -> None:
        """Each address space holds what its domain maps, and one that is in no domain holds nothing."""
        assert self.iommu.repair() == ()
        for space in self.guests:
            joined = [expected_of(domain) for domain in self.iommu.domains if space in domain.spaces]
            assert [space.mappings()] == (joined or [()])


GUEST: dict[str, Callable[[GuestWorld], object]] = {
    "map": lambda world: world.first.map(BLOCK, ADDRESS - PAGE, 3 * PAGE),
    "unmap": lambda world: world.first.unmap(0, 32 * PAGE),
    "unplug": lambda world: world.ask(UNPLUG, 1, 1),
    "join": lambda world: world.first.join(world.guests[3]),
    "leave": lambda world: world.first.leave(world.guests[0]),
    "close a domain": lambda world: world.first.close(),
    "close": lambda world: world.iommu.close(),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", GUEST)
def test_wherever_a_guests_iommu_is_interrupted_nothing_is_mapped_that_is_not_in_its_books(name: str) -> None:
    act = GUEST[name]
    at, ended = 0, False
    while not ended:
        at += stride(11)
        with ExitStack() as stack:
            world = GuestWorld(stack)
            ended = not interrupted(lambda world=world: act(world), at)  # type: ignore[misc]
            world.expect_guest_in_step()
            if name != "close":
                world.first.close()
            world.iommu.close()
            assert not any(space.mappings() for space in world.guests), at
            assert world.ask(PLUG, 12, 1) is ACK
            world.expect_consistent()
    assert at > 50
