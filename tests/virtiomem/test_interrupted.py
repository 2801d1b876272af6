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
from tests.support.virtiomem.fakes import ADDRESS, BLOCK
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run, subtract
from virtiomem.trace import DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
SOURCES = Path(virtiomem.__file__).parent
INSIDE = (*(str(SOURCES / room) for room in ("device", "discard", "mapping")), contextlib.__file__)
BLOCKS = 16
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
        at += 1
        with ExitStack() as stack:
            world = World(stack)
            ended = not interrupted(lambda world=world: world.ask(*REQUESTS[name]), at)  # type: ignore[misc]
            assert world.ask(PLUG, 12, 1) is ACK, at
            world.expect_consistent()
    assert at > 100
