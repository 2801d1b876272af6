"""Memory and listeners that keep books, check what they are asked, and fail when told to."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyvfio.errors import InvalidArgument, VfioError
from virtiomem.device import (
    Config,
    Events,
    RefusalReason,
    Request,
    RequestRefused,
    RequestType,
    Response,
    ResponseType,
    VirtioMem,
)
from virtiomem.discard import ListenerDiverged, RamDiscardManager, Section
from virtiomem.runs import Run, intersect, subtract, union

MIB = 1 << 20
BLOCK = 2 * MIB
ADDRESS = 0x1_0000_0000


class Faults:
    """Decides, step by step over all fakes, what fails."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fails: Callable[[int], bool] = _never

    def step(self, name: str) -> bool:
        """Whether this step is to fail."""
        self.steps.append(name)
        return self.fails(len(self.steps) - 1)

    def arm(self, *steps: int, every_from: int | None = None) -> None:
        """Of the steps from now on, counted from 0, those fail; and all from every_from."""
        self.steps.clear()
        self.fails = lambda step: step in steps or (every_from is not None and step >= every_from)

    def disarm(self) -> None:
        self.steps.clear()
        self.fails = _never


def _never(_: int) -> bool:
    return False


def failure(name: str) -> VfioError:
    return VfioError(errno.ENOMEM, name, meaning="injected")


@dataclass(eq=False)
class FakeMemory:
    """A Backing: populated says which bytes have pages."""

    size: int = 64 * BLOCK
    page_size: int = 4096
    faults: Faults = field(default_factory=Faults)
    populated: list[Run] = field(default_factory=list)
    holders: list[FakeListener] = field(default_factory=list)
    threads: int = 0

    def populate(self, offset: int, size: int, *, threads: int = 1) -> None:
        self.threads = threads
        if self.faults.step("memory.populate"):
            self.populated = union([*self.populated, Run(offset, size // 2)])
            raise failure("populate")
        self.populated = union([*self.populated, Run(offset, size)])

    def discard(self, offset: int, size: int) -> None:
        run = Run(offset, size)
        assert not any(intersect(holder.held, [run]) for holder in self.holders), "discarded under a pin"
        if self.faults.step("memory.discard"):
            raise failure("discard")
        self.populated = subtract(self.populated, [run])

    def reclaim(self, offset: int, size: int) -> int:
        found = sum(run.size for run in intersect(self.populated, [Run(offset, size)]))
        if found:
            self.discard(offset, size)
        return found


@dataclass(eq=False)
class FakeListener:
    """held: bytes of the memory. calls: what it was asked. half: it fails after half of the work and undoes none."""

    memory: FakeMemory
    name: str = "listener"
    finest: int = 4096
    half: bool = False
    needs_memory: bool = True
    held: list[Run] = field(default_factory=list)
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        self.memory.holders.append(self)

    def accept(self, section: Section, granularity: int) -> None:
        if granularity < self.finest:
            raise InvalidArgument(errno.EINVAL, f"register for {section}", {"granularity": granularity})

    def populate(self, section: Section, granularity: int) -> None:
        assert not intersect(self.held, [section.run]), "populated twice"
        assert granularity >= self.finest
        if self.needs_memory:
            assert not subtract([section.run], self.memory.populated), "mapped before it was populated"
        self._record("populate", section)
        if self.memory.faults.step(f"{self.name}.populate"):
            self._fail(section, [section.run], keep=True)
        self.held = union([*self.held, section.run])

    def discard(self, section: Section) -> None:
        held = intersect(self.held, [section.run])
        if not held:
            assert self.failed, "nothing to discard"
            return
        self._record("discard", section)
        if self.memory.faults.step(f"{self.name}.discard"):
            self._fail(section, held, keep=False)
        self.held = subtract(self.held, [section.run])

    def discarded(self, section: Section) -> None:
        assert not intersect(self.held, [section.run]), "held and discarded"

    def _record(self, operation: str, section: Section) -> None:
        self.calls.append((operation, section.offset_within_address_space, section.size))
        self.log.append(f"{operation} {self.name}")

    def _fail(self, section: Section, runs: Sequence[Run], *, keep: bool) -> None:
        self.failed = True
        if not self.half:
            raise failure(self.name)
        changed = [Run(run.start, max(run.size // 2, 4096)) for run in runs]
        self.held = union([*self.held, *changed]) if keep else subtract(self.held, changed)
        parts = [part for run in changed if (part := section.intersect(run))]
        raise ListenerDiverged(self.name, "injected", parts)


@dataclass(eq=False)
class FakeSource:
    """populated: bytes of the memory."""

    name: str = "source"
    granularity: int = BLOCK
    populated: list[Run] = field(default_factory=list)

    def populated_runs(self, within: Run) -> Sequence[Run]:
        return intersect(self.populated, [within])


@dataclass
class Heard(Events):
    """What the device told."""

    configs: list[Config] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    refused: list[tuple[RequestType, RefusalReason]] = field(default_factory=list)

    def config_changed(self, config: Config) -> None:
        self.configs.append(config)

    def size_changed(self, plugged_size: int) -> None:
        self.sizes.append(plugged_size)

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        self.refused.append((request.type, error.reason))


class Machine:
    """A device over fakes, with requests in blocks."""

    def __init__(
        self, listeners: int = 0, *, blocks: int = 64, requested: int | None = None, **options: object
    ) -> None:
        self.faults = Faults()
        self.memory = FakeMemory(blocks * BLOCK, faults=self.faults)
        self.heard = Heard()
        self.blocks = blocks
        self.device = VirtioMem(
            self.memory,
            address=ADDRESS,
            block_size=BLOCK,
            requested_size=(blocks if requested is None else requested) * BLOCK,
            events=self.heard,
            **options,  # type: ignore[arg-type]
        )
        # Not __del__: where a test ends in a cycle of references, the device may be finalized before its machine is.
        weakref.finalize(self, _close, self.faults, self.device)
        self.log: list[str] = []
        self.listeners = [self.listener(f"listener {number}") for number in range(listeners)]
        for listener in self.listeners:
            self.discards.register(listener, self.device.section)
        self.faults.disarm()

    @property
    def discards(self) -> RamDiscardManager:
        return self.device.discards

    def listener(self, name: str) -> FakeListener:
        return FakeListener(self.memory, name, log=self.log)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> Response:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count))))

    def plug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.PLUG, block, count).type

    def unplug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.UNPLUG, block, count).type

    def unplug_all(self) -> ResponseType:
        return self.ask(RequestType.UNPLUG_ALL).type

    def plugged(self) -> list[Run]:
        return list(self.device.populated_runs(Run(0, self.memory.size)))

    def state(self) -> object:
        """All that a request that fails must leave as it was."""
        return (
            self.device.config,
            self.plugged(),
            self.memory.populated,
            [listener.held for listener in self.memory.holders],
            self.discards.divergences,
        )


def _close(faults: Faults, device: VirtioMem) -> None:
    faults.disarm()
    device.close()


def divided(blocks: Sequence[int]) -> list[Run]:
    """The maximal runs, in bytes, of these blocks."""
    return union(Run(block * BLOCK, BLOCK) for block in blocks)
