"""SharedLogs: the logs of address spaces that several devices are mapped into, of which there is one at a time."""

from __future__ import annotations

import threading

from pyvfio.dma import DirtyBitmap
from virtiomem.mapping import DirtyLog, TracksDirty


class SharedLogs:
    """Begins the log of an address space for the first device that asks, and ends it with the last one.

    Each device reads the log of its own memory alone, so that none takes what is another's. Methods may be called from
    any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[TracksDirty, _Counted] = {}

    def begin(self, tracks: TracksDirty) -> DirtyLog:
        """A share of the log of tracks, until it is closed. It may know of writes from before. Raises VfioError."""
        with self._lock:
            counted = self._logs.get(tracks)
            if counted is None:
                counted = self._logs[tracks] = _Counted(tracks.track_dirty())
            counted.shares += 1
        return _Share(self, tracks, counted.log)

    def end(self, tracks: TracksDirty) -> None:
        """A share is over. Raises what ending the log raises, if it was the last one; it counts as ended then, too."""
        with self._lock:
            counted = self._logs[tracks]
            counted.shares -= 1
            if not counted.shares:
                del self._logs[tracks]
                counted.log.close()


class _Counted:
    """A log, and how many shares of it there are."""

    def __init__(self, log: DirtyLog) -> None:
        self.log = log
        self.shares = 0


class _Share:
    """A DirtyLog of one device."""

    def __init__(self, logs: SharedLogs, tracks: TracksDirty, log: DirtyLog) -> None:
        self._logs = logs
        self._tracks = tracks
        self._log = log
        self._closed = False

    def read(self, iova: int, size: int) -> DirtyBitmap:
        """As DirtyLog has it."""
        return self._log.read(iova, size)

    def close(self) -> None:
        """End the share. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._logs.end(self._tracks)
