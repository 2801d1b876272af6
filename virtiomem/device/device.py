"""VirtioMem: a resizable memory region whose blocks the guest plugs and unplugs."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyvfio.kernel import host_page_size
from pyvfio.resource import Resource
from virtiomem.device.answers import BusyReason, ResponseType
from virtiomem.device.backing import layout, warn_of_shared_pages
from virtiomem.device.config import (
    USABLE_EXTENT,
    Config,
    Feature,
    accepted_features,
    check_accessible,
    offered_features,
)
from virtiomem.device.errors import DeviceBusy, ProtocolViolation, RequestRefused
from virtiomem.device.events import Events, RateLimited, Throttle
from virtiomem.device.live_state import LiveState, StateKeeper
from virtiomem.device.region import BlockRegion, busy
from virtiomem.device.requests import RESPONSE_SIZE, Request, RequestType, Response
from virtiomem.device.rules import block_state, check_change, requested_blocks
from virtiomem.device.state import DeviceState
from virtiomem.device.statistics import Counters, Statistics
from virtiomem.discard import Backing, DiscardCoordination, DiscardUse, RamDiscardManager, Section, Telling
from virtiomem.runs import Run, intersect


class VirtioMem(Resource):
    """The device side of virtio-mem over a region of memory. All blocks are unplugged at first, and at the end.

    After every request, whether it succeeded or not, what is plugged is what is populated and what every listener of
    discards holds; discards.divergences has what could not be brought back. Listeners, such as DMA mappers, register
    with discards for section, or for parts of it.

    Methods may be called from any thread; one request or reset is handled at a time. config, resize(), plugged_runs,
    statistics and give_up() never wait for one. The memory stays the caller's.

    name: for people, in messages and the log. discards: the manager that tells the listeners.
    """

    def __init__(
        self,
        memory: Backing,
        *,
        address: int,
        block_size: int | None = None,
        requested_size: int = 0,
        region_offset: int = 0,
        region_size: int | None = None,
        node_id: int | None = None,
        unplugged_inaccessible: bool = True,
        persistent_suspend: bool = False,
        prealloc: bool = True,
        prealloc_threads: int = 1,
        usable_extent: int = USABLE_EXTENT,
        keeper: StateKeeper | None = None,
        coordination: DiscardCoordination | None = None,
        discards: RamDiscardManager | None = None,
        events: Events | None = None,
        event_interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        name: str = "virtio-mem",
    ) -> None:
        """Take region_size bytes (default: the rest) of memory from region_offset, and discard them.

        All sizes and offsets are bytes and multiples of block_size, which is a power of two of at least 1 MiB and a
        page of the memory (default: a transparent huge page).

        address: where the guest sees the region, guest-physical. requested_size: how much the guest is to plug at
        first. node_id: the NUMA node of the region; None: none is told. unplugged_inaccessible: refuse drivers that may
        read unplugged blocks. persistent_suspend: offer that blocks stay plugged over suspend to RAM. prealloc:
        populate blocks before they are plugged, with prealloc_threads threads; otherwise pinning or touching them does.
        usable_extent: how far the usable region reaches beyond requested_size. keeper: keeps every change, before
        anybody hears of it. coordination: the claims on the memory (default: DiscardCoordination.of it). discards: the
        manager of the memory, if other sources decide on it too. events: who is told of changes. event_interval:
        seconds, by clock, between size_changed events, and between log entries for one reason.

        Raises InvalidArgument that names what would fit, DiscardRefused if another user of the memory forbids discards,
        and VfioError; nothing is taken then.
        """
        config = layout(memory, address, region_offset, region_size, block_size, requested_size, node_id)
        check_accessible(unplugged_inaccessible, memory.page_size, host_page_size())
        warn_of_shared_pages(name, memory, config.block_size)
        self.name = name
        self.discards = discards or RamDiscardManager(memory, offset=region_offset, size=config.region_size)
        self._section = Section(memory, region_offset, address, config.region_size)
        self._features = offered_features(
            node=node_id is not None,
            unplugged_inaccessible=unplugged_inaccessible,
            persistent_suspend=persistent_suspend,
        )
        self._live = LiveState(config, usable_extent, keeper)
        self._migrating = False
        self._counters = Counters(name, Throttle(event_interval, clock))
        self._events = events or Events()
        self._size_events = RateLimited(self._events.size_changed, event_interval, clock)
        self._telling = Telling(name)
        self._hold = (coordination or DiscardCoordination.of(memory)).hold(DiscardUse.REQUIRE_COORDINATED, name)
        try:
            self._region = BlockRegion(
                memory,
                Run(region_offset, config.region_size),
                config.block_size,
                self.discards,
                name=name,
                prealloc=prealloc,
                prealloc_threads=prealloc_threads,
                keep=None if keeper is None else self._live.commit,
            )
        except BaseException:
            self._hold.release()
            raise
        self._blocks = self._region.blocks
        super().__init__()

    @property
    def config(self) -> Config:
        """The config space as the guest reads it; bytes() of it is the wire format. It never waits for a request."""
        return self._live.value

    @property
    def features(self) -> Feature:
        """The device's own feature bits, to be offered beside the transport's."""
        return self._features

    @property
    def negotiated(self) -> Feature:
        """Those of features that the driver has accepted since the last reset."""
        return self._live.negotiated

    @property
    def broken(self) -> bool:
        """Whether the guest broke the protocol. DEVICE_NEEDS_RESET is set and nothing answered until a reset."""
        return self._live.broken

    @property
    def migrating(self) -> bool:
        """Whether the virtual machine migrates. While it does no block changes its state: PLUG and UNPLUG are BUSY."""
        return self._migrating

    @migrating.setter
    def migrating(self, migrating: bool) -> None:
        with self._lock:
            self.require_open()
            self._set_migrating(migrating)

    @property
    def plugged_size(self) -> int:
        """How many bytes are plugged."""
        return self.config.plugged_size

    @property
    def plugged_runs(self) -> tuple[Run, ...]:
        """The maximal plugged runs in guest-physical bytes, ascending."""
        first = self.config.addr - self._section.offset_within_region + self._region.region.start
        return self._blocks.plugged_bytes(first, self.config.block_size)

    @property
    def section(self) -> Section:
        """The region at its guest-physical address: what a listener registers for that uses those addresses."""
        return self._section

    @property
    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        return self._counters.snapshot(self._telling.failures + self.discards.failures_to_tell)

    def handle(self, request: bytes, response_size: int = RESPONSE_SIZE) -> bytes:
        """Answer one request, given as the guest wrote it; the answer is in wire format, too.

        response_size: bytes that the guest left for the answer. Whatever a listener or the memory refuses is answered
        BUSY, with everything as before. Raises ProtocolViolation for a buffer that is too small and for an unknown
        type; the device is broken then, until it is reset.
        """
        with self._lock:
            self.require_open()
            if self.broken:
                meaning = "the guest broke the protocol earlier and has not reset the device since"
                raise ProtocolViolation(errno.EPROTO, "guest request", meaning=meaning)
            try:
                parsed = Request.parse(request, response_size)
            except ProtocolViolation as error:
                self._telling.tell(self._live.break_off, broken=True)
                self._telling.tell(self._counters.violated, error)
                raise
            response = self._answer(parsed)
            self._counters.answered(parsed.type, response.type)
            return bytes(response)

    def resize(self, requested_size: int) -> None:
        """Ask the guest to plug or unplug blocks until requested_size bytes are. The usable region grows if it must.

        A request that is being carried out goes by the size of when it began. Raises InvalidArgument, with nothing
        changed, for a size that is no multiple of the block size, or more than the region.
        """
        with self._live.lock:
            self.require_open()
            self._resize(requested_size)

    def give_up(self) -> None:
        """Answer BUSY to a PLUG that still populates memory, and to every later one: the device is about to close."""
        self._region.give_up()

    def reclaim(self) -> Iterator[int]:
        """Give back pages that somebody has touched in unplugged blocks; yield how many bytes, of one piece of the
        region after the other, between which requests have their turn.

        They are the host's, and with hugetlb they are missing from the pool.
        """
        first = 0
        while first < self._blocks.count:
            with self._lock:
                self.require_open()
                first, size, block = self._region.reclaim_stray(first)
                self._telling.tell(self._counters.strayed, size, block)
            yield size

    def negotiate(self, features: int) -> None:
        """The driver has accepted features and sets FEATURES_OK. Bits from 24 on are the transport's, and ignored.

        Raises FeaturesRefused, and FEATURES_OK must not stick then, for a bit that was not offered, and if the device
        offered UNPLUGGED_INACCESSIBLE and the driver did not accept it.
        """
        with self._lock:
            self.require_open()
            self._telling.tell(self._live.negotiate, accepted_features(features, self._features))

    def device_reset(self) -> None:
        """A virtio reset: the driver starts anew. All blocks stay as they are."""
        with self._lock:
            self.require_open()
            self._forget_driver()

    def system_reset(self) -> None:
        """The guest reboots: the device is reset, everything is unplugged, and the usable region shrinks.

        Waking up from suspend is no reboot: see wake_up(). Raises DeviceBusy if blocks must stay plugged (migrating),
        could not be unplugged, or the keeper fails. All are still plugged then, until the guest's driver starts.
        """
        with self._lock:
            self.require_open()
            self._forget_driver()
            with self._counted():
                self._unplug_all("system reset")

    def wake_up(self) -> None:
        """The guest wakes up from suspend to RAM: the device is reset, and no block changes, whatever was negotiated.

        A machine that wakes up resets its devices as it does for a reboot. That must not end in system_reset(): the
        guest's memory would be gone. Source: virtio 1.3, 5.15.6.2, VIRTIO_MEM_F_PERSISTENT_SUSPEND.
        """
        self.device_reset()

    def save(self) -> bytes:
        """The device's state for load() on another host, without the content of memory.

        While the device is migrating only requested_size can change afterwards.
        """
        with self._lock, self.discards.lock:
            self.require_open()
            return bytes(DeviceState(self.config, self.negotiated, self.broken, self._blocks.plugged_runs()))

    def load(self, state: bytes, *, is_resized: bool = False) -> None:
        """Take over what save() gave: populate, map and plug the blocks that were plugged there.

        No block may be plugged, nor the device migrate. is_resized: what is requested is later, and stays so. Memory's
        content comes afterwards. Raises StateRefused, DeviceBusy if the host lacks what it takes; nothing has changed,
        but for what could not be undone: that stays plugged.
        """
        with self._lock:
            self.require_open()
            loaded = DeviceState.parse(state)
            loaded.check(self.config, self._features)
            with self._counted(), self._sizing():
                self._require_not_migrating("load state")
                self._region.load(loaded.plugged, partial(self._live.load, loaded, is_resized=is_resized))
            self._telling.tell(self._events.config_changed, self.config)

    @property
    def next_event_time(self) -> float | None:
        """When, by the device's clock, flush_events() has something to deliver; None if no event waits."""
        with self._lock:
            return None if self.closed else self._size_events.due

    def close(self) -> None:
        """Take every block from the listeners, give its memory back, and decide on the region no more.

        The region stays discarded, until another device takes it on. Closing twice is harmless. Raises DeviceBusy if a
        listener or the host does not let go: the device stays open then, and close() can be called again.
        """
        with self._lock:
            if not self.closed and not self._inherited:
                if self._blocks.plugged:
                    with self._sizing():
                        self._region.unplug(Run(0, self._blocks.count), "close")
                if not self._region.reclaim():
                    raise DeviceBusy("close", BusyReason.DISCARD_FAILED, "unplugged blocks could not be discarded")
                self._region.leave()
            # The mappings of a process that forked are not the child's to take back.
            super().close()

    def flush_events(self) -> None:
        """Deliver the size_changed event that was held back, if its time has come."""
        with self._lock:
            self.require_open()
            self._telling.tell(self._size_events.flush)

    def populated_runs(self, within: Run) -> Sequence[Run]:
        """The maximal plugged runs in bytes of the memory, clipped to within, ascending."""
        with self.discards.lock:
            parts = intersect([within], [self._section.run])
            return [run for part in parts for run in self._region.populated_runs(part)]

    def _set_migrating(self, migrating: bool) -> None:
        """A subclass may extend it; the lock is held."""
        self._migrating = migrating

    def _forget_driver(self) -> None:
        self._telling.tell(self._live.break_off, broken=False)

    def _resize(self, requested_size: int) -> None:
        """A subclass may extend it; the lock of the config is held, and the device's need not be."""
        self._telling.tell(self._events.config_changed, self._live.resize(requested_size))

    def _begin_request(self) -> Config:
        """The config that a request goes by from its beginning. A subclass may extend it."""
        return self.config

    def _answer(self, request: Request) -> Response:
        try:
            return self._carry_out(request)
        except RequestRefused as error:
            self._telling.tell(self._counters.refused, error)
            self._telling.tell(self._events.request_refused, request, error)
            return Response(error.reason.response)

    def _carry_out(self, request: Request) -> Response:
        """Do what the guest asks and return the acknowledgement. A subclass may extend it; the lock is held.

        Raises RequestRefused, with every block as it was.
        """
        config = self._begin_request()
        if request.type is RequestType.UNPLUG_ALL:
            self._unplug_all("unplug all")
            return Response(ResponseType.ACK)
        blocks = requested_blocks(request, config)
        if request.type is RequestType.STATE:
            return Response(ResponseType.ACK, block_state(self._blocks, blocks))
        check_change(request, blocks, config, self._blocks)
        self._require_not_migrating(request.type.name.lower())
        with self._sizing():
            if request.type is RequestType.PLUG:
                self._region.plug(blocks, config.requested_size)
            else:
                self._region.unplug(blocks)
        return Response(ResponseType.ACK)

    def _unplug_all(self, operation: str) -> None:
        if is_kept := bool(self._blocks.plugged):
            self._require_not_migrating(operation)
            with self._sizing():
                shrunk = partial(self._live.commit, is_shrunk=True)
                self._region.unplug(Run(0, self._blocks.count), operation, keep=shrunk)
        with busy(operation, BusyReason.NOT_RECORDED):
            self._live.shrink(is_kept=is_kept)

    def _require_not_migrating(self, operation: str) -> None:
        if self._migrating:
            raise DeviceBusy(operation, BusyReason.MIGRATING)

    @contextmanager
    def _sizing(self) -> Iterator[None]:
        """Within the block blocks are plugged or unplugged: tell the config how many are, and whoever listens."""
        try:
            yield
        finally:
            self._live.plugged(self._region.plugged_size)
        self._telling.tell(self._size_events.put, self.plugged_size)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Within the block the host asks for what may meet a busy device."""
        try:
            yield
        except DeviceBusy as error:
            self._telling.tell(self._counters.refused, error)
            raise

    def _release(self) -> None:
        self._hold.release()

    def __repr__(self) -> str:
        return f"<VirtioMem {self.name} at {self.config.addr:#_x} size {self._section.size:#_x}>"
