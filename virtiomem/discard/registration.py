"""Registration: one listener for one section, and where it holds something else than it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtiomem.discard.errors import ListenerDiverged
from virtiomem.discard.section import RamDiscardListener, Section
from virtiomem.runs import Run, intersect, subtract, union


@dataclass(frozen=True, slots=True)
class Divergence:
    """What a listener holds of section is not what is populated.

    stale: it holds the section although it is discarded. Otherwise it holds nothing although it is populated.
    error: the failure that left it so.
    """

    listener: str
    section: Section
    stale: bool
    error: str

    def __str__(self) -> str:
        return f"{self.listener} {'still holds' if self.stale else 'does not hold'} {self.section} ({self.error})"


class Registration:
    """Runs are bytes of the memory and lie within the section.

    missing: populated, but not all of it is held. stale: held, but not populated. Both are empty unless undoing a
    failure failed.
    """

    def __init__(self, listener: RamDiscardListener, section: Section, granularity: int) -> None:
        self.listener = listener
        self.section = section
        self.granularity = granularity
        self.missing: list[Run] = []
        self.stale: list[Run] = []
        self._error = ""

    def clip(self, runs: Sequence[Run]) -> list[Run]:
        return intersect(runs, [self.section.run])

    def populate(self, run: Run) -> None:
        """Let the listener have run. Raises what it raises: it has nothing of run then, or stale says what."""
        try:
            self.listener.populate(self._part(run), self.granularity)
        except ListenerDiverged as error:
            self.stale = union([*self.stale, *_changed(error, run)])
            self._error = str(error)
            raise

    def discard(self, run: Run) -> None:
        """Take run from the listener. Raises what it raises: it has all it had then, or missing says what not.

        missing is as before otherwise: it is for settle() to forget what is no longer populated.
        """
        try:
            self.listener.discard(self._part(run))
        except ListenerDiverged as error:
            changed = _changed(error, run)
            self.missing = union([*self.missing, *subtract(changed, self.stale)])
            self.stale = subtract(self.stale, changed)
            self._error = str(error)
            raise
        self.stale = subtract(self.stale, [run])

    def withdraw(self, run: Run) -> None:
        """Undo populate(run), or record that it is stale."""
        try:
            self.listener.discard(self._part(run))
        except Exception as error:
            self.stale = union([*self.stale, *subtract([run], _changed(error, run))])
            self._error = str(error)

    def restore(self, runs: Sequence[Run]) -> None:
        """Undo a discard of runs, or record what is missing."""
        for run in runs:
            try:
                self.listener.populate(self._part(run), self.granularity)
            except Exception as error:
                self.missing = union([*self.missing, *subtract([run], _changed(error, run))])
                self._error = str(error)

    def settle(self, run: Run) -> None:
        """run is discarded now: nothing of it is missing any more."""
        self.missing = subtract(self.missing, [run])
        self.listener.discarded(self._part(run))

    def repair(self) -> None:
        """Try again to let go of what is stale, then to get what is missing."""
        stale, self.stale = self.stale, []
        for run in stale:
            self.withdraw(run)
        missing, self.missing = self.missing, []
        self.restore(missing)

    @property
    def divergences(self) -> list[Divergence]:
        return [
            Divergence(self.listener.name, self._part(run), stale, self._error)
            for runs, stale in ((self.stale, True), (self.missing, False))
            for run in runs
        ]

    def _part(self, run: Run) -> Section:
        part = self.section.intersect(run)
        assert part is not None
        return part


def _changed(error: Exception, run: Run) -> list[Run]:
    if not isinstance(error, ListenerDiverged):
        return []
    return intersect(union(section.run for section in error.changed), [run])
