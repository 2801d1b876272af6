"""DirtyReader: hands out the dirty pages of a device answer by answer, and loses none of which nobody has heard."""

from __future__ import annotations

import errno
from collections import deque

from virtiomem.control.migration.answers import MOST_RUNS, DirtyAnswer
from virtiomem.control.migration.errors import MigrationRefused
from virtiomem.mapping import DirtyTracker
from virtiomem.runs import Run, runs_of_bits

_PAGES_AT_ONCE = 1 << 15
"""Pages that are taken in one piece: other users of the tracker have their turn between two."""


class DirtyReader:
    """Round by round: what is dirty when a round begins is told in it, and is clean from then on.

    An answer counts as told when the next one is asked for. A round that is not read to its end gives back what it has
    not told. One thread at a time.
    """

    def __init__(self, tracker: DirtyTracker, region: Run) -> None:
        """tracker: one that tracks. region: the bytes of its memory that are read."""
        self._tracker = tracker
        self._region = region
        self._number = 0
        self._reading = False
        # How far the bits are taken, what of them is still to be told, and what was told last.
        self._position = region.start
        self._ahead: deque[Run] = deque()
        self._untold: tuple[Run, ...] = ()

    def begin(self) -> DirtyAnswer:
        """The first answer of a new round. What the round before has not told is in it."""
        self._give_back()
        self._tracker.sync()
        self._position, self._reading = self._region.start, True
        return self._next()

    def go_on(self, number: int) -> DirtyAnswer:
        """The answer after the one of this number, the last one, which is told therefore.

        Raises MigrationRefused, with nothing changed, if it is not the last one of a round that is not at its end.
        """
        if not self._reading or number != self._number:
            meaning = (
                "it is not the last answer of a round that is being read: somebody has begun another, or it is over"
            )
            raise MigrationRefused(
                errno.ESTALE, "migrate dirty", {"after": number}, meaning, "Begin a round: ask without after"
            )
        self._untold = ()
        return self._next()

    def _next(self) -> DirtyAnswer:
        runs: list[Run] = []
        while len(runs) < MOST_RUNS and (run := self._take()) is not None:
            runs.append(Run(run.start - self._region.start, run.size))
        self._untold = tuple(Run(run.start + self._region.start, run.size) for run in runs)
        self._number += 1
        self._reading = bool(runs)
        return DirtyAnswer(self._number, self._tracker.page_size, self._region.size, tuple(runs))

    def _take(self) -> Run | None:
        """The next run, in bytes of the memory; None if there is none."""
        while not self._ahead and self._position < self._region.end:
            self._take_piece()
        if not self._ahead:
            return None
        run = self._ahead.popleft()
        # It may go on in the next piece.
        while not self._ahead and run.end == self._position < self._region.end:
            self._take_piece()
            if self._ahead and self._ahead[0].start == run.end:
                run = Run(run.start, run.size + self._ahead.popleft().size)
        return run

    def _take_piece(self) -> None:
        page_size = self._tracker.page_size
        piece = Run(self._position, min(_PAGES_AT_ONCE * page_size, self._region.end - self._position))
        bits = int.from_bytes(self._tracker.take(piece), "little")
        self._position = piece.end
        pages = runs_of_bits(bits, -(-piece.size // page_size))
        self._ahead.extend(Run(piece.start + run.start * page_size, run.size * page_size) for run in pages)

    def _give_back(self) -> None:
        for run in (*self._untold, *self._ahead):
            self._tracker.mark(run)
        self._untold = ()
        self._ahead.clear()
