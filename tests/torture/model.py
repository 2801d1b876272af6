"""Random requests, resizes, resets, joins and leaves, saves and loads, with faults on any system call, beside a
reference of a few lines; after each step the simulated kernel's own lists are looked at.

A step is a row of data, and a run depends on its seed alone. A run that fails is cut down to the steps that it takes.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from pyvfio import Container, Ioas, Memory, MemoryKind, VfioError
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FalseUnmap, Fault, FaultyKernel, Rule, ShortUnmap
from pyvfio.sim import SimKernel
from tests.support.kernels.held import held_by
from virtiomem import DmaMapper, VirtioMem
from virtiomem.device import DeviceBusy, ProtocolViolation, Request, RequestType, Response, ResponseType, StateRefused

BLOCK = 1 << 20
BLOCKS = 12
ADDRESS = 1 << 32
RUN = 200
"""Steps on one device, after which all faults are over and everything has to be as it should."""
_ERRNOS = (errno.ENOMEM, errno.EIO, errno.EBUSY, errno.EINVAL, errno.EFAULT, errno.EINTR, errno.ENOSPC, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Step:
    """what: is done. block, count: its numbers. faults: what the system calls on the way do."""

    what: str
    block: int = 0
    count: int = 0
    faults: tuple[Rule, ...] = ()


@dataclass(slots=True)
class Reference:
    """What a guest must see, by the specification."""

    plugged: set[int] = field(default_factory=set)
    requested: int = BLOCKS
    usable: int = BLOCKS
    broken: bool = False

    def resize(self, requested: int) -> None:
        """The usable region grows at once."""
        self.requested = requested
        self.usable = max(self.usable, BLOCKS if requested else 0)

    def emptied(self) -> None:
        """It shrinks only when everything is unplugged: to nothing if nothing is requested, as the extent is larger."""
        self.plugged.clear()
        self.usable = BLOCKS if self.requested else 0

    def expected(self, kind: RequestType, address: int, count: int) -> ResponseType:
        """The answer to a request if nothing goes wrong."""
        if kind is RequestType.UNPLUG_ALL:
            return ResponseType.ACK
        first, rest = divmod(address - ADDRESS, BLOCK)
        blocks = set(range(first, first + count)) if count <= BLOCKS else set()
        if rest or not blocks or first < 0 or first + count > self.usable:
            return ResponseType.ERROR
        if kind is RequestType.STATE:
            return ResponseType.ACK
        if kind is RequestType.UNPLUG:
            return ResponseType.ACK if blocks <= self.plugged else ResponseType.ERROR
        if len(self.plugged) + count > self.requested:
            return ResponseType.NACK
        return ResponseType.ERROR if blocks & self.plugged else ResponseType.ACK

    def acknowledged(self, kind: RequestType, address: int, count: int) -> None:
        """What a request changes."""
        if kind is RequestType.UNPLUG_ALL:
            self.emptied()
            return
        blocks = set(range((address - ADDRESS) // BLOCK, (address - ADDRESS) // BLOCK + count))
        if kind is RequestType.PLUG:
            self.plugged |= blocks
        elif kind is RequestType.UNPLUG:
            self.plugged -= blocks


class World:
    """A device on the simulated kernel, with up to two address spaces that its blocks are mapped into."""

    def __init__(self) -> None:
        self.simulated = SimKernel(edu_devices=2)
        self.kernel = FaultyKernel(self.simulated)
        self.memory = Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK, kernel=self.kernel)
        self.device = VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=BLOCKS * BLOCK)
        self.reference = Reference()
        addresses = edu_addresses(self.simulated)
        self.spaces: list[Container | Ioas] = [Container(kernel=self.kernel), Ioas(kernel=self.kernel)]
        for space, address in zip(self.spaces, addresses, strict=True):
            space.open_device(address)
        self.mappers = [DmaMapper(space) for space in self.spaces]
        self.joined: set[int] = set()

    def close(self) -> None:
        """Let everything go; the simulated kernel has nothing then. Closing twice is harmless."""
        if self.memory.closed:
            return
        self.kernel.arm()
        self.device.migrating = False
        assert self.device.discards.repair() == ()
        for number in self.joined:
            self.device.discards.unregister(self.mappers[number])
        for mapper in self.mappers:
            mapper.close()
        self.device.close()
        for space in self.spaces:
            assert held_by(self.simulated, space, self.memory) == []
            space.close()
        self.memory.close()
        assert (self.simulated.charges.locked, self.simulated.charges.pinned) == (0, 0)

    def do(self, step: Step) -> None:
        """Do a step, and look whether it did what it may."""
        self.kernel.arm(*step.faults)
        may_fail = bool(step.faults) or self.device.migrating or bool(self.device.discards.divergences)
        try:
            _STEPS[step.what](self, step, may_fail)
        finally:
            self.kernel.arm()

    @property
    def plugged(self) -> set[int]:
        """The numbers of the blocks that the device says are plugged."""
        runs = self.device.plugged_runs
        return {(at - ADDRESS) // BLOCK for run in runs for at in range(run.start, run.end, BLOCK)}

    def check(self) -> None:
        """The device says what the reference says, and the kernel has what is plugged, but for what is told."""
        reference, divergences = self.reference, self.device.discards.divergences
        assert self.device.plugged_size == len(reference.plugged) * BLOCK, (self.plugged, reference.plugged)
        assert self.plugged == reference.plugged
        for number, space in enumerate(self.spaces):
            told: dict[bool, set[int]] = {True: set(), False: set()}
            for each in divergences:
                if each.listener == self.mappers[number].name:
                    told[each.stale] |= {
                        at // BLOCK for at in range(each.section.run.start, each.section.run.end, BLOCK)
                    }
            wanted = reference.plugged if number in self.joined else set()
            held = held_by(self.simulated, space, self.memory)
            # One mapping for each block, at its own place.
            assert all(size == BLOCK and iova - ADDRESS == offset for iova, size, offset in held), held
            have = {offset // BLOCK for _, _, offset in held}
            assert wanted - told[False] <= have, f"{wanted - have} of {space!r} is not mapped, and nobody is told"
            assert have <= wanted | told[True], f"{have - wanted} of {space!r} is mapped, and nobody is told"

    # Steps.

    def ask(self, step: Step, may_fail: bool) -> None:
        kind = RequestType[step.what.upper()]
        address = ADDRESS + step.block * BLOCK
        expected = self.reference.expected(kind, address, step.count)
        if self.reference.broken:
            try:
                self.device.handle(bytes(Request(kind, address, step.count)))
            except ProtocolViolation:
                return
            raise AssertionError("a broken device answers")
        answer = Response.parse(self.device.handle(bytes(Request(kind, address, step.count)))).type
        if answer is ResponseType.BUSY and expected is ResponseType.ACK and may_fail:
            return
        assert answer is expected, (answer, expected)
        if answer is ResponseType.ACK:
            self.reference.acknowledged(kind, address, step.count)

    def garbage(self, step: Step, _: bool) -> None:
        data = Random(step.block << 32 | step.count).randbytes(step.count)
        kind = int.from_bytes(data[:2], "little")
        if len(data) >= 24 and kind < len(RequestType):
            return
        try:
            self.device.handle(data)
        except ProtocolViolation:
            self.reference.broken = True
        else:
            raise AssertionError("garbage is answered")

    def resize(self, step: Step, _: bool) -> None:
        self.device.resize(step.count % (BLOCKS + 1) * BLOCK)
        self.reference.resize(step.count % (BLOCKS + 1))

    def device_reset(self, _: Step, __: bool) -> None:
        self.device.device_reset()
        self.reference.broken = False

    def system_reset(self, _: Step, may_fail: bool) -> None:
        self.reference.broken = False
        try:
            self.device.system_reset()
        except DeviceBusy:
            assert may_fail
        else:
            self.reference.emptied()

    def migrate(self, step: Step, _: bool) -> None:
        self.device.migrating = bool(step.count & 1)

    def save_and_load(self, _: Step, may_fail: bool) -> None:
        """What was saved is loaded again, after all was unplugged; in between a fault may end it."""
        state, plugged, usable = self.device.save(), set(self.reference.plugged), self.reference.usable
        state, plugged = self.device.save(), set(self.reference.plugged)
        try:
            # The driver is gone first, whatever becomes of the blocks.
            self.reference.broken = False
            self.device.system_reset()
            self.reference.emptied()
            self.device.load(state)
        except (DeviceBusy, StateRefused):
            assert may_fail
            # Where a load that fails cannot be undone either, some blocks keep their state.
            if not self.reference.plugged:
                self.reference.plugged = self.plugged
                self.reference.usable = max(self.reference.usable, usable if self.reference.plugged else 0)
                assert self.reference.plugged <= plugged
        else:
            self.reference.plugged, self.reference.usable = plugged, usable
            self.reference.broken = self.device.broken

    def join(self, step: Step, may_fail: bool) -> None:
        number = step.block % len(self.mappers)
        try:
            self.device.discards.register(self.mappers[number], self.device.section)
        except VfioError:
            assert may_fail or number in self.joined
        else:
            assert number not in self.joined
            self.joined.add(number)

    def leave(self, step: Step, may_fail: bool) -> None:
        number = step.block % len(self.mappers)
        try:
            self.device.discards.unregister(self.mappers[number])
        except VfioError:
            assert may_fail or number not in self.joined
        else:
            self.joined.remove(number)


_STEPS: dict[str, Callable[[World, Step, bool], None]] = {
    **dict.fromkeys(("plug", "unplug", "unplug_all", "state"), World.ask),
    "garbage": World.garbage,
    "resize": World.resize,
    "device_reset": World.device_reset,
    "system_reset": World.system_reset,
    "migrate": World.migrate,
    "save_and_load": World.save_and_load,
    "join": World.join,
    "leave": World.leave,
}
_OFTEN = ("plug",) * 12 + ("unplug",) * 8 + ("join", "leave", "resize") * 2 + ("unplug_all", "state", "state")
_WHATS = (*_OFTEN, "garbage", "device_reset", "device_reset", "system_reset", "migrate", "migrate", "save_and_load")


def steps(seed: int, number: int) -> list[Step]:
    """The steps of the run of this number."""
    random = Random(f"{seed} {number}")
    return [_step(random) for _ in range(RUN)]


def _step(random: Random) -> Step:
    what = random.choice(_WHATS)
    count = random.choice((0, 1, 1, 1, 2, 3, BLOCKS, BLOCKS + 1, 23, 24, 40, 1 << 40))
    block = random.choice((-1, 0, *range(BLOCKS), BLOCKS, 1 << 20))
    faults = tuple(_fault(random) for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2))))
    return Step(what, block, count if what != "garbage" else count % 48, faults)


def _fault(random: Random) -> Rule:
    nth = random.choice((0, 0, 1, 2, 3, 5, None))
    match random.randrange(6):
        case 0:
            return ShortUnmap(nth, size=random.choice((0, BLOCK, 2 * BLOCK)))
        case 1:
            code = random.choice((errno.EIO, errno.EBUSY, errno.EDEADLK, errno.ENOENT, errno.EFAULT))
            return FalseUnmap(nth, unmaps=random.choice((None, 0, BLOCK, 2 * BLOCK)), errno=code)
        case _:
            name = random.choice((None, "ioctl", "ioctl", "madvise"))
            return Fault(nth, name, errno=random.choice(_ERRNOS))


def failure(run: Sequence[Step]) -> str | None:
    """What goes wrong in a run: the step's number and what; None for nothing."""
    world = World()
    number = 0
    try:
        while number < len(run):
            world.do(run[number])
            world.check()
            number += 1
        world.close()
    except Exception as error:
        return f"step {number}: {type(error).__name__}: {error}"
    finally:
        # What went wrong is told: nothing else is to be told of what it leaves.
        with suppress(Exception):
            world.close()
    return None


def shrunk(run: Sequence[Step]) -> list[Step]:
    """A part of a run that fails, of which no piece can be left out."""
    left = list(run)
    piece = len(left) // 2
    while piece:
        start = 0
        while start < len(left):
            shorter = left[:start] + left[start + piece :]
            if failure(shorter) is not None:
                left = shorter
            else:
                start += piece
        piece //= 2
    return left


def campaign(seed: int, count: int) -> Iterator[str | None]:
    """What goes wrong in each of as many runs as make count steps, None for nothing, with the steps to repeat it."""
    logging.getLogger("virtiomem").setLevel(logging.CRITICAL)
    try:
        for number in range(-(-count // RUN)):
            run = steps(seed, number)
            what = failure(run)
            yield None if what is None else _told(seed, number, shrunk(run))
    finally:
        logging.getLogger("virtiomem").setLevel(logging.NOTSET)


def _told(seed: int, number: int, run: Sequence[Step]) -> str:
    return "\n".join([f"seed {seed} run {number}: {failure(run)}", *(f"    {step}," for step in run)])
