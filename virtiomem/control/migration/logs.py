"""SpaceLogs: the logs of a device's address spaces, which come and go while it migrates."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress

from pyvfio.dma import Access, AddressSpace
from pyvfio.errors import VfioError
from virtiomem.control.managed import ManagedDevice
from virtiomem.control.migration.answers import UnloggedSpace
from virtiomem.control.migration.shared_logs import SharedLogs
from virtiomem.mapping import DirtyLog, DirtyTracker, TracksDirty
from virtiomem.runs import Run

_log = logging.getLogger(__name__)


class SpaceLogs:
    """Has a tracker read the logs of all address spaces that a device is mapped into just now. One thread at a time.

    An address space that has no log is tracked without one, and so is one whose log does not begin: all that it maps
    counts as written then.

    tracker: of the device's dirty pages. unlogged: the address spaces without a log, with the reason.
    """

    def __init__(self, managed: ManagedDevice, shared: SharedLogs) -> None:
        """Begin the logs, with nothing dirty. Raises VfioError if the memory cannot be tracked; no log is on then.

        shared: the logs of this device and of others that are mapped into the same address spaces.
        """
        self.tracker = DirtyTracker(managed.device.discards)
        self._managed = managed
        self._shared = shared
        self._known: dict[AddressSpace, str] = {}
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.tracker.start({})
            for space in self._managed.address_spaces():
                self._known[space] = self._join(space)
            undo.pop_all()

    @property
    def unlogged(self) -> tuple[UnloggedSpace, ...]:
        return tuple(UnloggedSpace(space.name, reason) for space, reason in self._known.items() if reason)

    def follow(self) -> None:
        """Track the address spaces that have joined the region, and those no more that have left it.

        What one had written by the time that it left, or joined, is unknown: all that it could write is dirty.
        """
        spaces = list(self._managed.address_spaces())
        gone = [space for space in self._known if space not in spaces]
        for space in gone:
            del self._known[space]
            with suppress(VfioError):
                self.tracker.leave(space)
        if gone:
            self._mark_all()
        for space in spaces:
            if space not in self._known:
                self._known[space] = self._join(space)
                self._mark_mapped(space)

    def stop(self) -> None:
        """End the logs. What one of them raises is logged: it ends with its address space at the latest."""
        self._known.clear()
        try:
            self.tracker.stop()
        except VfioError as error:
            _log.warning("%s: a log of dirty pages did not end: %s", self._managed.name, error)

    def _join(self, space: AddressSpace) -> str:
        """Track space; return why it has no log, empty if it has one."""
        choose = self._managed.dirty_log
        tracks = choose(space) if choose is not None else space if isinstance(space, TracksDirty) else None
        reason = "" if tracks is not None else "it has no log of what devices write"
        if tracks is not None:
            try:
                # First: it must not be what ends the tracking of all others that fails later.
                tracks = _Begun(self._shared.begin(tracks))
            except VfioError as error:
                tracks, reason = None, str(error)
        self.tracker.join(space, tracks)
        return reason

    def _mark_all(self) -> None:
        section = self._managed.device.section
        self.tracker.mark(Run(section.offset_within_region, section.size))

    def _mark_mapped(self, space: AddressSpace) -> None:
        memory: object = self._managed.device.discards.memory
        for run in space.mappings():
            if run.memory is memory and run.access & Access.WRITE:
                self.tracker.mark(Run(run.offset, run.size))


class _Begun:
    """TracksDirty, whose log is on already."""

    def __init__(self, log: DirtyLog) -> None:
        self._log = log

    def track_dirty(self) -> DirtyLog:
        return self._log
