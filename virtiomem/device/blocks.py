"""BlockMap: which blocks are plugged."""

from __future__ import annotations

import threading

from pyvfio.records import records
from virtiomem.runs import Run

_UNPLUGGED = b"\0"
_PLUGGED = b"\1"


class BlockMap:
    """A flag for each block: plugged or not. Runs are of block numbers.

    count: how many blocks there are; plugged: how many of them are plugged. Every method raises ValueError for a run
    outside the map, and changes nothing then. Any thread may ask at any time, and sees the map of one moment.
    """

    def __init__(self, count: int) -> None:
        """All count blocks are unplugged at first."""
        self._lock = threading.Lock()
        self.count = count
        self.plugged = 0
        # One byte a block: find() and slices run at memory speed, where a bitmap in an int is copied at every change.
        self._flags = bytearray(count)

    def is_plugged(self, block: int) -> bool:
        """Whether this block is plugged."""
        return self.all_plugged(Run(block, 1))

    def all_plugged(self, run: Run) -> bool:
        """Whether every block of run is plugged."""
        self._check(run)
        return self._flags.find(_UNPLUGGED, run.start, run.end) < 0

    def all_unplugged(self, run: Run) -> bool:
        """Whether no block of run is plugged."""
        self._check(run)
        return self._flags.find(_PLUGGED, run.start, run.end) < 0

    def plug(self, run: Run) -> None:
        """Mark every block of run as plugged, whatever it was."""
        self._set(run, _PLUGGED)

    def unplug(self, run: Run) -> None:
        """Mark every block of run as unplugged, whatever it was."""
        self._set(run, _UNPLUGGED)

    def plugged_runs(self, within: Run | None = None) -> tuple[Run, ...]:
        """The maximal runs of plugged blocks, ascending, clipped to within (default: all blocks)."""
        return self._runs(_PLUGGED, _UNPLUGGED, within)

    def plugged_bytes(self, first: int, block_size: int) -> tuple[Run, ...]:
        """The same runs in bytes, where the first block is at first: each is made once, of the tens of thousands."""
        starts, sizes = self._spans(_PLUGGED, _UNPLUGGED, None)
        return records(
            Run, start=[first + start * block_size for start in starts], size=[size * block_size for size in sizes]
        )

    def unplugged_runs(self, within: Run | None = None) -> tuple[Run, ...]:
        """The maximal runs of unplugged blocks, ascending, clipped to within (default: all blocks)."""
        return self._runs(_UNPLUGGED, _PLUGGED, within)

    def _runs(self, wanted: bytes, other: bytes, within: Run | None) -> tuple[Run, ...]:
        starts, sizes = self._spans(wanted, other, within)
        return records(Run, start=starts, size=sizes)

    def _spans(self, wanted: bytes, other: bytes, within: Run | None) -> tuple[list[int], list[int]]:
        within = within or Run(0, self.count)
        self._check(within)
        find, end = self._flags.find, within.end
        starts: list[int] = []
        sizes: list[int] = []
        with self._lock:
            start = find(wanted, within.start, end)
            while start >= 0:
                stop = find(other, start, end)
                stop = end if stop < 0 else stop
                starts.append(start)
                sizes.append(stop - start)
                start = find(wanted, stop, end)
        return starts, sizes

    def _set(self, run: Run, flag: bytes) -> None:
        self._check(run)
        with self._lock:
            before = self._flags.count(_PLUGGED, run.start, run.end)
            self._flags[run.start : run.end] = flag * run.size
            self.plugged += (run.size if flag == _PLUGGED else 0) - before

    def _check(self, run: Run) -> None:
        if run.start < 0 or run.size < 0 or run.end > self.count:
            raise ValueError(f"blocks {run.start} to {run.end - 1} are not all among 0 to {self.count - 1}")
