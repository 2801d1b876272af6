"""ServedRegion: a device that is served over vhost-user, with all that belongs to it."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from pyvfio.dma import AddressSpace
from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel
from pyvfio.memory import SharedMemory
from pyvfio.resource import Resource
from pyvfio.units import format_size
from virtiomem.control import ManagedDevice
from virtiomem.device import (
    Config,
    Events,
    FeaturesRefused,
    NackReason,
    ProtocolViolation,
    Request,
    RequestRefused,
    RequestType,
    StateRefused,
    Throttle,
)
from virtiomem.discard import DiscardCoordination
from virtiomem.mapping import joined
from virtiomem.persistence import KeptDevice, SlotFile
from virtiomem.serving import Periodic, Source, Worker
from virtiomem.trace import RecordedVirtioMem
from virtiomem.vhost_user.device import VhostUserDevice
from virtiomem.vhost_user.events import ConfigChanges, FrontEndEvents

_INTERVAL: Final = 1.0
"""Seconds between two lines about refusals for one reason."""
_MOST_LINES: Final = 20
_WINDOW: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServedRegionOptions:
    """What a ServedRegion serves. Sizes are bytes.

    path: the vhost-user socket. name: the device's. address: where the guest sees the region, guest-physical.
    region_size, block_size, requested_size: as VirtioMem has them. page_size: of the front end's memory; None for the
    host's. node_id: the NUMA node of the region; None: none is told. packed: offer packed rings, too. file_offset,
    discard: as VhostUserDevice has them. persistent_suspend, prealloc_threads: as VirtioMem has them. state: the file
    in which the device outlives this process, and which is taken up if there is one; None: it does not.
    reclaim_interval: seconds after which pages that were touched in unplugged blocks are looked for, and given back;
    None: never. record: where
    the trace of what the guest asks goes; None for no trace.
    """

    path: str
    name: str
    address: int
    region_size: int
    block_size: int
    requested_size: int = 0
    page_size: int | None = None
    node_id: int | None = None
    packed: bool = True
    file_offset: int | None = None
    discard: bool = False
    persistent_suspend: bool = False
    prealloc_threads: int = 1
    state: Path | None = None
    reclaim_interval: float | None = None
    record: TextIO | None = None


class ServedRegion(Resource):
    """Serves from the beginning, in a thread of its own, until close(). Nothing is mapped or open then.

    However long a guest's request takes, no other region waits for it. A guest that still runs keeps the memory that it
    has plugged, but has no device any more to unplug it from.

    managed: the device, for a control socket.
    """

    def __init__(
        self,
        options: ServedRegionOptions,
        address_spaces: Sequence[AddressSpace],
        *,
        kernel: Kernel,
        coordination: DiscardCoordination,
        changed: Callable[[], object],
        say: Callable[[str], object],
    ) -> None:
        """Serve; address_spaces, which plugged blocks are mapped into, stay the caller's.

        kernel: what maps the memory and reads event descriptors. coordination: the claims on the guest's memory.
        changed: called after every change that a status shows, from any thread. say: called with a line about each
        thing that happens between front end, guest and device, unless there are too many; from any thread, with a lock
        of the device held: it must not wait for a reader.

        Raises what SharedMemory, VirtioMem, DmaMapper, VhostUserDevice and SlotFile raise, and StateRefused if options
        are not those of the device that is to be taken up; nothing stays open then.
        """
        spaces = tuple(address_spaces)
        guest = _Guest(changed, lambda line: say(f"{options.name}: {line}"))
        with ExitStack() as stack:
            memory = stack.enter_context(SharedMemory(options.region_size, page_size=options.page_size, kernel=kernel))
            changes = stack.enter_context(ConfigChanges(guest, kernel=kernel))
            kept = KeptDevice(None if options.state is None else stack.enter_context(SlotFile(options.state)))
            requested_size = kept.requested_size(options.address, options.region_size, options.block_size)
            device = stack.enter_context(
                RecordedVirtioMem(
                    memory,
                    address=options.address,
                    block_size=options.block_size,
                    requested_size=options.requested_size if requested_size is None else requested_size,
                    node_id=options.node_id,
                    persistent_suspend=options.persistent_suspend,
                    prealloc_threads=options.prealloc_threads,
                    keeper=kept,
                    coordination=coordination,
                    events=changes,
                    name=options.name,
                )
            )
            try:
                kept.check(device.config, device.features)
            except StateRefused as error:
                advice = f"Serve it as before, or remove {options.state} if its guest has ended"
                raise StateRefused(
                    error.errno or errno.EINVAL, f"go on from {options.state}", meaning=error.meaning, advice=advice
                ) from error
            if kept.left is not None:
                guest.awaits(kept.left.config.plugged_size)
            if options.record is not None:
                device.record(options.record, mappers=len(spaces))
            # At the end, before the device would discard what is plugged: a guest may still use it.
            stack.callback(memory.detach)
            # Also if it cannot be detached.
            stack.callback(memory.keep_pages)
            for space in spaces:
                stack.enter_context(joined(space, device.discards, device.section, coordination))
            source = stack.enter_context(
                VhostUserDevice(
                    options.path,
                    device,
                    memory,
                    changes,
                    guest,
                    packed=options.packed,
                    file_offset=options.file_offset,
                    discard=options.discard,
                    kept=kept,
                )
            )
            # What is undone at the end is undone here alone: the guest goes on, with what it has.
            stack.callback(kept.stop)
            sources: list[Source] = [source]
            if options.reclaim_interval is not None:
                sources.append(Periodic(options.reclaim_interval, device.reclaim))
            stack.enter_context(Worker(f"serve {options.name}", sources, kernel=kernel, failed=guest.failed))
            stack.callback(device.give_up)
            self.managed = ManagedDevice(device, guest, "vhost-user", memory.page_size, lambda: spaces)
            super().__init__()
            self._stack = stack.pop_all()

    def give_up(self) -> None:
        """Answer a PLUG that takes long BUSY, and every later one: close() is about to follow. Safe from any thread."""
        self.managed.device.give_up()

    def _release(self) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<ServedRegion {self.managed.name}>"


class _Lines:
    """Lets _MOST_LINES lines pass in _WINDOW seconds, and says how many it has left out: none comes of a flood.

    Safe from several threads.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._begun = 0.0
        self._passed = 0

    def say(self, line: str) -> None:
        now = time.monotonic()
        with self._lock:
            if now >= self._begun + _WINDOW:
                if self._passed > _MOST_LINES:
                    self._say(f"{self._passed - _MOST_LINES} more lines are left out")
                self._begun, self._passed = now, 0
            self._passed += 1
            if self._passed <= _MOST_LINES:
                self._say(line)


class _Guest(FrontEndEvents, Events):
    """The Guest of a control socket: tells who drives the device, and how that goes."""

    def __init__(self, changed: Callable[[], object], say: Callable[[str], object]) -> None:
        self._changed = changed
        self._say = say
        # What a front end makes happen, it can make happen as often as it likes.
        self._lines = _Lines(say)
        self._state = "no front end"
        # As the log does: no guest fills what the host reads.
        self._throttle = Throttle(_INTERVAL, time.monotonic)
        self._refusal: str | None = None
        self._in_the_way: str | None = None
        self._until_change = False

    @property
    def state(self) -> str:
        return f"vhost-user: {self._state}"

    @property
    def waiting_for(self) -> str | None:
        return self._refusal or self._in_the_way

    def awaits(self, plugged_size: int) -> None:
        """A guest had so much plugged when the process before this one ended."""
        size = format_size(plugged_size)
        self._in_the_way = f"{size} were plugged when the server before this one ended; the guest's memory is awaited"

    def connected(self) -> None:
        self._refusal = None
        self._become("a front end, no driver", "a front end has connected")

    def disconnected(self, reason: str) -> None:
        self._become("no front end", f"the front end has left: {reason}")

    def failed(self, error: Exception) -> None:
        """A fault of ours: the region is not served any more. All others are."""
        self._become("is served no more", f"served no more, by a fault of this server: {type(error).__name__}: {error}")

    def attached(self, size: int) -> None:
        self._in_the_way = None
        self._lines.say(f"{format_size(size)} of the front end's memory are the region")

    def started(self, features: int) -> None:
        self._refusal = None
        self._become("its driver runs", f"the guest's driver runs, features {features:#_x}")

    def stopped(self) -> None:
        self._become("a front end, no driver", "the guest's driver has stopped")

    def driver_refused(self, error: FeaturesRefused) -> None:
        self._refusal = error.meaning
        self._become("its driver was refused", f"the guest's driver was refused: {error.meaning}")

    def refused(self, operation: str, error: VfioError) -> None:
        self._in_the_way, self._until_change = str(error), False
        self._lines.say(f"{operation} refused: {error}")
        self._changed()

    def broken(self, error: ProtocolViolation) -> None:
        self._become("its driver broke the protocol", f"served no more until a reset: {error}")

    def config_changed(self, config: Config) -> None:
        self._say(f"asks the guest for {format_size(config.requested_size)}")
        if self._until_change:
            self._in_the_way, self._until_change = None, False
        self._changed()

    def size_changed(self, plugged_size: int) -> None:
        self._in_the_way = None
        self._say(f"{format_size(plugged_size)} plugged")
        self._changed()

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        cause = str(error.__cause__ or error)
        if self._throttle.passes(error.reason):
            self._say(f"{request.type.name} answered {error.reason.response.name}: {cause}")
        if request.type is not RequestType.STATE and cause != self._in_the_way:
            self._in_the_way = cause
            self._until_change = isinstance(error.reason, NackReason)
            self._changed()

    def _become(self, state: str, line: str) -> None:
        self._state = state
        self._lines.say(line)
        self._changed()
