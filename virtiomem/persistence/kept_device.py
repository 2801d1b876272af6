"""KeptDevice: keeps the state of a device that is served, and takes up what the process before has left of it."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pyvfio.errors import VfioError
from virtiomem.device import (
    REQUEST_SIZE,
    RESPONSE_SIZE,
    Config,
    DeviceState,
    Feature,
    ProtocolViolation,
    Request,
    RequestType,
    Response,
    ResponseType,
    StateNotKept,
    StateRefused,
)
from virtiomem.persistence.record import InHand, MemoryIdentity, Record, boot_id
from virtiomem.persistence.slot_file import SlotFile
from virtiomem.runs import Run, subtract

_log = logging.getLogger(__package__)
_ACK: Final = bytes(Response(ResponseType.ACK))


class KeptDevice:
    """A StateKeeper, with the memory that the state is of and the last request with its answer.

    What the process before has left is kept until its memory comes back, or other memory takes its place. Safe from
    several threads.
    """

    def __init__(self, file: SlotFile | None) -> None:
        """file: it stays the caller's; None: nothing is kept. Raises VfioError for content that is none of ours."""
        self._lock = threading.Lock()
        self._file = file
        self._record = Record(boot_id(), b"")
        self._left: DeviceState | None = None
        # The same, while it is being taken up.
        self._taken: DeviceState | None = None
        self._recalled: InHand | None = None
        # The request that is being carried out: with what was plugged, and was in hand, before it.
        self._begun: InHand | None = None
        self._before: tuple[tuple[Run, ...], InHand | None] = ((), None)
        self._plugged: tuple[Run, ...] = ()
        if file is not None and file.content is not None:
            try:
                self._find(Record.parse(file.content))
            except VfioError as error:
                advice = "Remove it if its guest has ended"
                raise VfioError(
                    error.errno or errno.EPROTO, f"go on from {file.path}", meaning=error.meaning, advice=advice
                ) from error

    def _find(self, found: Record) -> None:
        """Take over what the process before has kept. Raises VfioError."""
        # The memory of a host that was started anew is gone.
        if found.boot == self._record.boot:
            state = DeviceState.parse(found.state) if found.state else None
            self._record = found
            if found.memory is not None and state is not None:
                self._left, self._recalled = state, found.in_hand

    @property
    def left(self) -> DeviceState | None:
        """What the process before has left, as long as it is not taken up; None if there is nothing."""
        return self._left

    def requested_size(self, address: int, region_size: int, block_size: int) -> int | None:
        """The bytes that were requested last of a device like this, before this process; None if nothing was kept."""
        if not self._record.state:
            return None
        config = DeviceState.parse(self._record.state).config
        is_like_it = (config.addr, config.region_size, config.block_size) == (address, region_size, block_size)
        return config.requested_size if is_like_it else None

    def check(self, config: Config, features: Feature) -> None:
        """Raises StateRefused if a device like this could not take up blocks that were left."""
        if self._left is None:
            return
        try:
            self._left.check(config, features)
        except StateRefused:
            if self._left.plugged:
                raise
            self._left = self._recalled = None
            self._record = replace(self._record, session=None)

    def stop(self) -> None:
        """Keep what is kept: what is undone from now on is undone for the end of this process alone."""
        with self._lock:
            self._file = None

    def keep(self, state: DeviceState) -> None:
        """As StateKeeper has it. Raises VfioError."""
        with self._lock:
            if self._left is not None:
                self._left = self._resized(self._left, state)
                return
            if self._taken is not None and state.plugged != self._taken.plugged:
                # The host resizes while they are being plugged.
                self._taken = self._resized(self._taken, state)
                return
            self._write(self._following(state))
            self._plugged = state.plugged

    def put_back(self, state: DeviceState) -> None:
        """As StateKeeper has it."""
        with self._lock:
            self._write_or_remember(self._following(state))
            self._plugged = state.plugged

    # Requests.

    def begin(self, position: int, request: bytes, following: int = 0, run: str = "") -> bytes | None:
        """The guest asks, in its ring at position. The answer, if the process before had it and did not tell.

        following, run: as InHand has them.
        """
        with self._lock:
            recalled, self._recalled = self._recalled, None
            if recalled is not None and (recalled.position, recalled.request) == (position, request):
                self._note(replace(recalled, following=following, run=run))
                return recalled.answer
            self._begun = InHand(position, request, _ACK, following, run)
            self._before = self._plugged, self._record.in_hand
            return None

    def answered(self, answer: bytes) -> None:
        """The request that has begun is answered so, and the guest is about to be told. Raises nothing."""
        with self._lock:
            begun, self._begun = self._begun, None
            if begun is None:
                return
            self._note(replace(begun, answer=answer))

    def refused(self, position: int, request: bytes, following: int, run: str, answer: bytes) -> None:
        """As begin() and answered(), for what was answered without the device."""
        with self._lock:
            self._note(InHand(position, request, answer, following, run))

    def last(self, run: str) -> tuple[int, int] | None:
        """Where the last request of a run of the ring was, and what follows it; None if there was none, or is known."""
        in_hand = self._record.in_hand
        return None if in_hand is None or in_hand.run != run else (in_hand.position, in_hand.following)

    def _note(self, in_hand: InHand) -> None:
        if self._record.in_hand != in_hand:
            # No block has changed, or that is kept: to be asked again does no harm.
            self._write_or_remember(replace(self._record, in_hand=in_hand))

    # The front end.

    @property
    def session(self) -> Mapping[str, object] | None:
        """The session of the front end that is connected, or was when the process before ended; None if none is."""
        return self._record.session

    def keep_session(self, session: Mapping[str, object] | None) -> None:
        """Have session in place of the one before. Raises VfioError, with that kept."""
        with self._lock:
            if session != self._record.session:
                self._write(replace(self._record, session=session))

    def meanwhile(self, position: int, request: bytes) -> bytes | None:
        """As begin(), while what was left of this guest cannot be taken up.

        None: the answer is BUSY, and nothing came of it.
        """
        with self._lock:
            # Only the first one can be it: a position comes again.
            recalled, self._recalled = self._recalled, None
            if recalled is None or (recalled.position, recalled.request) != (position, request):
                return None
            plugged = _plugged_by(recalled, self._left)
            if plugged is None or self._left is None:
                return recalled.answer
            # The guest does not know yet that these are plugged.
            runs = tuple(subtract(self._left.plugged, [plugged]))
            size = sum(run.size for run in runs) * self._left.config.block_size
            self._left = replace(self._left, config=replace(self._left.config, plugged_size=size), plugged=runs)
            self._write_or_remember(replace(self._record, state=bytes(self._left), in_hand=None))
            return None

    # Memory.

    @property
    def memory(self) -> MemoryIdentity | None:
        """The device's memory; None if it has none."""
        return self._record.memory

    def is_left(self, memory: MemoryIdentity) -> bool:
        """Whether what was left is of this memory."""
        known = self._record.memory
        return self._left is not None and known is not None and known.may_be(memory)

    @contextmanager
    def taking_up(self) -> Iterator[bytes]:
        """The block gets what was left, for VirtioMem.load(). What it raises leaves it to be taken up later."""
        with self._lock:
            self._taken, self._left = self._left, None
        assert self._taken is not None
        try:
            yield bytes(self._taken)
        except BaseException:
            with self._lock:
                self._left = self._taken
            raise
        finally:
            self._taken = None

    def attached(self, memory: MemoryIdentity | None, state: bytes) -> None:
        """The device's memory is this one from now on, or none: what was left is of no use. Raises StateNotKept.

        The last request is not asked again; where it was in the ring, which may run on, stays known.

        state: as VirtioMem.save() gives it.
        """
        with self._lock:
            in_hand = self._record.in_hand
            place = None if in_hand is None else replace(in_hand, request=b"", answer=b"")
            try:
                self._write(replace(self._record, state=state, memory=memory, in_hand=place))
            except OSError as error:
                raise StateNotKept(error) from error
            self._left = self._recalled = None

    def _resized(self, left: DeviceState, state: DeviceState) -> DeviceState:
        """What was left, as the host has resized the device, whose blocks are not plugged again yet. Keeps it."""
        config = replace(
            left.config,
            requested_size=state.config.requested_size,
            usable_region_size=max(left.config.usable_region_size, state.config.usable_region_size),
        )
        left = replace(left, config=config)
        self._write(replace(self._record, state=bytes(left)))
        return left

    def _following(self, state: DeviceState) -> Record:
        """The record with state, and with the request that led to it."""
        in_hand = self._record.in_hand
        if self._begun is not None:
            plugged, before = self._before
            # Blocks change for this request alone, and are put back if it fails.
            in_hand = before if state.plugged == plugged else self._begun
        return replace(self._record, state=bytes(state), in_hand=in_hand)

    def _write_or_remember(self, record: Record) -> None:
        """Keep what is so whether it can be kept or not: if not now, then with what comes next."""
        try:
            self._write(record)
        except OSError as error:
            _log.warning("what has happened could not be recorded yet: %s", error)
            self._record = record

    def _write(self, record: Record) -> None:
        if self._file is not None:
            self._file.write(bytes(record))
        self._record = record


def _plugged_by(in_hand: InHand, state: DeviceState | None) -> Run | None:
    """The blocks that this request has plugged; None if it was another one, or was refused."""
    if state is None or in_hand.answer != _ACK:
        return None
    try:
        request = Request.parse(in_hand.request[:REQUEST_SIZE], RESPONSE_SIZE)
    except ProtocolViolation:
        return None
    if request.type is not RequestType.PLUG:
        return None
    config = state.config
    return Run((request.addr - config.addr) // config.block_size, request.nb_blocks)
