"""ServedRegion: a device that is served over vhost-user, with all that belongs to it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from pyvfio.dma import AddressSpace, TakesUp
from pyvfio.errors import InvalidArgument
from pyvfio.kernel import Kernel
from pyvfio.memory import SharedMemory
from pyvfio.resource import Resource
from virtiomem.control import ManagedDevice
from virtiomem.device import StateRefused
from virtiomem.discard import DiscardCoordination
from virtiomem.mapping import DmaMapper, join, part
from virtiomem.persistence import DescriptorStore, KeptDevice, SlotFile
from virtiomem.serving import Calls, Periodic, Source, Worker
from virtiomem.trace import RecordedVirtioMem
from virtiomem.vhost_user.device import VhostUserDevice
from virtiomem.vhost_user.events import ConfigChanges
from virtiomem.vhost_user.guest import VhostUserGuest

_PATIENCE: Final = 60.0
"""Seconds that reset() waits for a request that is being carried out."""


@dataclass(frozen=True, slots=True)
class ServedRegionOptions:
    """What a ServedRegion serves. Sizes are bytes.

    path: the vhost-user socket. name: the device's. address: where the guest sees the region, guest-physical.
    region_size, block_size, requested_size: as VirtioMem has them. page_size: of the front end's memory; None for the
    host's. node_id: the NUMA node of the region; None: none is told. packed: offer packed rings, too. file_offset,
    discard: as VhostUserDevice has them. persistent_suspend, prealloc_threads: as VirtioMem has them. state: the file
    in which the device outlives this process, and which is taken up if there is one; None: it does not.
    reclaim_interval: seconds after which pages that were touched in unplugged blocks are looked for, and given back;
    None: never. record: where the trace of what the guest asks goes; None for no trace.
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
        store: DescriptorStore | None = None,
        taken_up: Sequence[AddressSpace] = (),
    ) -> None:
        """Serve; address_spaces, which plugged blocks are mapped into, stay the caller's. They may leave, and others
        join, meanwhile.

        kernel: what maps the memory and reads event descriptors. coordination: the claims on the guest's memory.
        changed: called after every change that a status shows, from any thread. say: called with a line about each
        thing that happens between front end, guest and device, unless there are too many; from any thread, with a lock
        of the device held: it must not wait for a reader. store: as VhostUserDevice has it. taken_up: those of
        address_spaces which a process before this one has mapped the region into.

        Raises what SharedMemory, VirtioMem, DmaMapper, VhostUserDevice and SlotFile raise, and StateRefused if options
        are not those of the device that is to be taken up; nothing stays open then, and with a lasting store all is
        left to another process: taken_up are handed over.
        """
        self._mappers: dict[AddressSpace, DmaMapper] = {}
        self._joining = threading.Lock()
        self._coordination = coordination
        self._guest = guest = VhostUserGuest(changed, lambda line: say(f"{options.name}: {line}"))
        with ExitStack() as stack:
            memory = stack.enter_context(SharedMemory(options.region_size, page_size=options.page_size, kernel=kernel))
            changes = stack.enter_context(ConfigChanges(guest, kernel=kernel))
            self._kept = kept = KeptDevice(
                None if options.state is None else stack.enter_context(SlotFile(options.state))
            )
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
                device.record(options.record, mappers=len(address_spaces))
            # At the end, before the device would discard what is plugged: a guest may still use it.
            stack.callback(memory.detach)
            # Also if it cannot be detached.
            stack.callback(memory.keep_pages)
            self._source = stack.enter_context(
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
                    store=store,
                )
            )
            self.managed = ManagedDevice(device, guest, "vhost-user", memory.page_size, lambda: self.address_spaces)
            stack.callback(self._part_all)
            if store is not None and store.is_lasting:
                stack.push(partial(self._failed, taken_up))
            # After the memory of before, with what is plugged in it: what is mapped of that stays mapped.
            for space in address_spaces:
                self._join(space, takes_up=space in taken_up)
            # What is undone at the end is undone here alone: the guest goes on, with what it has.
            stack.callback(kept.stop)
            self._calls = Calls(kernel=kernel)
            stack.callback(self._calls.close)
            sources: list[Source] = [self._source, self._calls]
            if options.reclaim_interval is not None:
                sources.append(Periodic(options.reclaim_interval, device.reclaim))
            self._worker = Worker(f"serve {options.name}", sources, kernel=kernel, failed=guest.failed)
            stack.callback(self._worker.close)
            stack.callback(device.give_up)
            super().__init__()
            self._stack = stack.pop_all()

    def reset(self) -> int:
        """The guest has ended for good: unplug all, give its memory back to the host, and go on with nothing plugged.

        Returns how many bytes were plugged; what the process before has left of a guest counts, too. Safe from any
        thread but the one that serves. Raises DeviceBusy, with nothing changed, while a front end is connected or a
        request is carried out for more than a minute, and what VhostUserDevice.release_memory() raises.
        """
        self.require_open()
        size = self._calls.make(f"reset {self.managed.name}", self._source.release_memory, _PATIENCE)
        self._guest.reset(size)
        return size

    @property
    def connected(self) -> bool:
        """Whether a front end is connected just now."""
        return self._source.connected

    @property
    def address_spaces(self) -> tuple[AddressSpace, ...]:
        """Those that plugged blocks are mapped into just now, in the order in which they joined."""
        return tuple(self._mappers)

    def join(self, space: AddressSpace, *, takes_up: bool = False) -> None:
        """Map all that is plugged into space, and what will be. space stays the caller's, and outlives its leave().

        takes_up: a process before this one has mapped the region there. A request of the guest waits until all is
        mapped. A trace has no word for it. Safe from any thread.
        Raises InvalidArgument for one that has joined already, and what DmaMapper and its registration raise; nothing
        of the region is mapped there then.
        """
        with self._joining:
            self.require_open()
            self._join(space, takes_up=takes_up)

    def leave(self, space: AddressSpace) -> None:
        """Unmap all of the region from space. Safe from any thread.

        Raises InvalidArgument for one that has not joined, and VfioError if it cannot be unmapped: all is mapped as
        before then, or the device's divergences say what is not.
        """
        with self._joining:
            self.require_open()
            if space not in self._mappers:
                raise InvalidArgument(
                    errno.ENOENT, f"leave {self.managed.name}", {"space": space.name}, "it has not joined"
                )
            self._part(space)

    def give_up(self) -> None:
        """Answer a PLUG that takes long BUSY, and every later one: close() is about to follow. Safe from any thread."""
        self.managed.device.give_up()

    def pause(self) -> None:
        """Answer nobody any more, and change nothing: close() or hand_over() is about to follow."""
        self._worker.close()

    def hand_over(self) -> None:
        """Close it, after pause(), and leave the socket and the front end's session to the process that follows.

        The address spaces it is mapped into have been handed over before: what is mapped in others is unmapped.
        """
        self._kept.stop()
        self._source.hand_over()
        self.close()

    def _failed(self, taken_up: Sequence[AddressSpace], kind: type[BaseException] | None, *_: object) -> None:
        """Serving could not begin: another process may do better."""
        if kind is None:
            return
        self._kept.stop()
        self._source.hand_over()
        for space in taken_up:
            if isinstance(space, TakesUp):
                space.hand_over()

    def _join(self, space: AddressSpace, *, takes_up: bool = False) -> None:
        device = self.managed.device
        if space in self._mappers:
            raise InvalidArgument(errno.EEXIST, f"join {device.name}", {"space": space.name}, "it has joined already")
        mapper = join(space, device.discards, device.section, self._coordination, takes_up=takes_up)
        # Another one: whoever looks needs no lock.
        self._mappers = {**self._mappers, space: mapper}

    def _part(self, space: AddressSpace) -> None:
        part(self._mappers[space], self.managed.device.discards)
        self._mappers = {other: mapper for other, mapper in self._mappers.items() if other is not space}

    def _part_all(self) -> None:
        with self._joining, ExitStack() as stack:
            for space in tuple(self._mappers):
                stack.callback(self._part, space)

    def _release(self) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<ServedRegion {self.managed.name}>"
