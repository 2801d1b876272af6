"""Registration: one listener for one section, and the record of what it wrongly holds or lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtiomem.discard.errors import ListenerDiverged
from virtiomem.discard.section import RamDiscardListener, Section
from virtiomem.runs import Run, intersect, subtract, union


@dataclass(frozen=True, slots=True)
class Divergence:
    """A listener holds something else of a section than what is populated.

    listener: its name. stale: whether the listener holds the section although it is discarded; otherwise it lacks the
    section although it is populated. error: the failure that left it so.
    """

    listener: str
    section: Section
    stale: bool
    error: str

    def __str__(self) -> str:
        return f"{self.listener} {'still holds' if self.stale else 'does not hold'} {self.section} ({self.error})"


class Registration:
    """A listener that is registered for a section.

    granularity: the unit in bytes that the listener was promised. missing: what is populated, but not all held. stale:
    what is held, but not populated. Both are runs of bytes of the memory within the section, and empty unless undoing a
    failure has failed.
    """

    def __init__(self, listener: RamDiscardListener, section: Section, granularity: int) -> None:
        self.listener = listener
        self.section = section
        self.granularity = granularity
        self.missing: list[Run] = []
        self.stale: list[Run] = []
        self._error = ""

    def clip(self, runs: Sequence[Run]) -> list[Run]:
        """The parts of runs that lie within the section."""
        return intersect(runs, [self.section.run])

    def populate(self, run: Run) -> None:
        """Let the listener hold run. Raises what it raises; it holds nothing of run then, or stale says what."""
        try:
            self.listener.populate(self._part(run), self.granularity)
        except ListenerDiverged as error:
            self.stale = union([*self.stale, *_changed(error, run)])
            self._error = str(error)
            raise

    def discard(self, run: Run) -> None:
        """Take run from the listener. Raises what it raises; it holds all that it held then, or missing says what not.

        Otherwise missing is as before: settle() forgets what is no longer populated.
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
        """Undo populate(run), or record as stale what the listener would not let go of."""
        try:
            self.listener.discard(self._part(run))
        except Exception as error:
            self.stale = union([*self.stale, *subtract([run], _changed(error, run))])
            self._error = str(error)

    def restore(self, runs: Sequence[Run]) -> None:
        """Undo a discard of runs, or record as missing what the listener would not take."""
        for run in runs:
            try:
                self.listener.populate(self._part(run), self.granularity)
            except Exception as error:
                self.missing = union([*self.missing, *subtract([run], _changed(error, run))])
                self._error = str(error)

    def settle(self, run: Run) -> None:
        """run is discarded for good: forget what was missing of it, and tell the listener."""
        self.missing = subtract(self.missing, [run])
        self.listener.discarded(self._part(run))

    def repair(self) -> None:
        """Try again to take what is stale from the listener, then to give it what is missing."""
        stale, self.stale = self.stale, []
        for run in stale:
            self.withdraw(run)
        missing, self.missing = self.missing, []
        self.restore(missing)

    @property
    def divergences(self) -> list[Divergence]:
        """What is stale and what is missing, each run with its section."""
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
