"""MigratingDevice: a managed device that clients may have migrate, and that ends it when they have gone."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress

from pyvfio.errors import ClosedError, InvalidArgument
from virtiomem.control.managed import ManagedDevice
from virtiomem.control.migration.answers import LARGEST_STATE, BegunMigration, DirtyAnswer
from virtiomem.control.migration.dirty_round import DirtyReader
from virtiomem.control.migration.errors import MigrationRefused
from virtiomem.control.migration.incoming import IncomingState
from virtiomem.control.migration.lease import Lease
from virtiomem.control.migration.logs import SpaceLogs
from virtiomem.control.migration.shared_logs import SharedLogs
from virtiomem.device import StateRefused
from virtiomem.runs import Run

LONGEST_LEASE = 86400.0
"""Seconds for which a migration may outlast its client."""


class MigratingDevice:
    """A device as the clients of a control socket have it migrate, one migration at a time.

    A migration belongs to the client that began it, and ends with its connection; or it ends a time after anybody last
    asked for anything of it. So nobody leaves a device whose guest is answered BUSY for ever. Any client may read the
    dirty pages, save, and cancel: all of them are one user's.

    Methods may be called from any thread; one client is served at a time.
    """

    def __init__(self, managed: ManagedDevice, shared: SharedLogs, changed: Callable[[], object]) -> None:
        """shared: as SpaceLogs has it. changed: called when the migration has begun or ended."""
        self.managed = managed
        self._shared = shared
        self._changed = changed
        self._lock = threading.Lock()
        self._closed = False
        self._logs: SpaceLogs | None = None
        self._reader: DirtyReader | None = None
        self._owner: object = None
        self._lease: Lease | None = None
        self._incoming: IncomingState | None = None

    def is_owned_by(self, client: object) -> bool:
        """Whether the migration would end with this client's connection. It waits for nobody."""
        return self._owner is client

    def begin(self, client: object, keep: float | None) -> BegunMigration:
        """Have no block change from now on, and log what devices write.

        A request that is being carried out is waited for. keep: seconds for which the migration goes on after anybody
        last asked for something; None: it is the client's, and ends with it. A state that is only here in part is let
        go. Raises MigrationRefused if it migrates already, InvalidArgument for other seconds, and VfioError; nothing is
        on then.
        """
        device = self.managed.device
        with self._lock:
            self._require_open("migrate begin")
            if keep is not None and not 0 < keep <= LONGEST_LEASE:
                meaning = f"a migration is kept for more than 0 and at most {LONGEST_LEASE:.0f} seconds"
                raise InvalidArgument(errno.EINVAL, "migrate begin", meaning=meaning)
            if device.migrating:
                by = "it migrates already" if self._logs else "the program that holds it has it migrate already"
                advice = "Wait for its end, or: virtiomem migrate cancel" if self._logs else ""
                raise self._refused("migrate begin", errno.EBUSY, by, advice)
            self._incoming = None
            device.migrating = True
            try:
                logs = SpaceLogs(self.managed, self._shared)
                try:
                    self._lease = None if keep is None else self._leased(keep)
                except BaseException:
                    logs.stop()
                    raise
            except BaseException:
                device.migrating = False
                raise
            self._logs, self._reader = logs, DirtyReader(logs.tracker, self._region)
            self._owner = client if keep is None else None
            begun = BegunMigration(device.name, logs.tracker.page_size, device.section.size, logs.unlogged)
        self._changed()
        return begun

    def dirty(self, after: int | None) -> DirtyAnswer:
        """Some dirty pages: of a new round, or those after the answer called after, which that confirms.

        Raises MigrationRefused if the device does not migrate, and for an answer that is not the last one.
        """
        with self._lock:
            logs, reader = self._require_begun("migrate dirty")
            if after is not None:
                answer = reader.go_on(after)
            else:
                logs.follow()
                answer = reader.begin()
            self._renew()
            return answer

    def save(self) -> bytes:
        """The state for load() at the destination. Raises MigrationRefused if the device does not migrate."""
        with self._lock:
            self._require_begun("migrate save")
            state = self.managed.device.save()
            if len(state) > LARGEST_STATE:
                meaning = f"its state has {len(state):#_x} bytes, and at most {LARGEST_STATE:#_x} are given here"
                raise self._refused("migrate save", errno.E2BIG, meaning)
            self._renew()
            return state

    def load(self, client: object, size: int, offset: int, data: bytes) -> int:
        """Take a part of a state of size bytes, and load it if it is the last one; return where the next one begins.

        A part at offset 0 begins anew, whoever has sent others. Raises MigrationRefused while the device migrates, and
        for a part that does not follow on the client's own; and StateRefused or DeviceBusy if the device cannot be in
        this state. The client's parts are let go then, and nothing else has changed.
        """
        with self._lock:
            self._require_open("migrate load")
            if self.managed.device.migrating:
                raise self._refused("migrate load", errno.EBUSY, "it migrates, and its blocks keep their state")
            incoming = self._incoming
            if not offset:
                incoming = IncomingState(client, size)
            if incoming is None or incoming.client is not client or incoming.size != size:
                meaning = "it is no part of the state that is being loaded: another one has been begun meanwhile"
                raise self._refused("migrate load", errno.ESTALE, meaning, "Send it again from offset 0")
            self._incoming = None
            state = incoming.add(offset, data)
            if state is None:
                self._incoming = incoming
            else:
                self._load(state)
            return incoming.offset

    def cancel(self) -> None:
        """End the migration: blocks may change again, and nothing is logged. Raises MigrationRefused without one."""
        with self._lock:
            self._require_begun("migrate cancel")
            self._end()
        self._changed()

    def left(self, client: object) -> None:
        """The client has gone: what was its alone is over."""
        with self._lock:
            if self._incoming is not None and self._incoming.client is client:
                self._incoming = None
            ends = self._logs is not None and self._owner is client
            if ends:
                self._end()
        if ends:
            self._changed()

    def close(self) -> None:
        """End the migration, if there is one, and take no other. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            self._incoming = None
            if self._logs is not None:
                self._end()

    def _load(self, state: bytes) -> None:
        if self.managed.load is not None:
            self.managed.load(state)
            return
        if self.managed.device.negotiated:
            raise StateRefused(
                errno.EBUSY,
                "load state",
                meaning="a driver runs, which knows nothing of the blocks that would be plugged",
                advice="Load before the guest runs",
            )
        self.managed.device.load(state)

    def _leased(self, seconds: float) -> Lease:
        try:
            return Lease(seconds, self._expired)
        except RuntimeError as error:
            raise self._refused("migrate begin", errno.EAGAIN, f"there is nobody to end it: {error}") from error

    def _expired(self, lease: Lease) -> None:
        with self._lock:
            ends = self._lease is lease and lease.expired
            if ends:
                self._end()
        if ends:
            self._changed()

    def _renew(self) -> None:
        if self._lease is not None:
            self._lease.renew()

    def _end(self) -> None:
        """The lock is held. Raises nothing."""
        logs, lease = self._logs, self._lease
        self._logs = self._reader = self._owner = self._lease = None
        if lease is not None:
            lease.end()
        if logs is not None:
            logs.stop()
            with suppress(ClosedError):
                self.managed.device.migrating = False

    @property
    def _region(self) -> Run:
        section = self.managed.device.section
        return Run(section.offset_within_region, section.size)

    def _require_open(self, operation: str) -> None:
        if self._closed:
            raise self._refused(operation, errno.ENODEV, "it is managed here no more")

    def _require_begun(self, operation: str) -> tuple[SpaceLogs, DirtyReader]:
        self._require_open(operation)
        if self._logs is None or self._reader is None:
            raise self._refused(operation, errno.EINVAL, "it does not migrate", "Begin that: virtiomem migrate begin")
        return self._logs, self._reader

    def _refused(self, operation: str, code: int, meaning: str, advice: str = "") -> MigrationRefused:
        return MigrationRefused(code, f"{operation} of {self.managed.name}", meaning=meaning, advice=advice)
