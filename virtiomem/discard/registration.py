"""Registration: one listener for one section, and the record of what it wrongly holds or lacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from virtiomem.discard.errors import ListenerDiverged
from virtiomem.discard.section import KeepsBooks, RamDiscardListener, Section
from virtiomem.runs import Run, RunSet, intersect, subtract, union

_log = logging.getLogger(__package__)

_DOUBT = "it cannot be known whether it is there: the kernel has neither confirmed nor denied it"


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
    what is held, but not populated. Both are bytes of the memory within the section, and empty unless undoing a failure
    has failed, or the listener has lost what it held. What a call has not confirmed is in one of them until it has, so
    that an exception or a signal in the middle of a change leaves it recorded.
    """

    def __init__(self, listener: RamDiscardListener, section: Section, granularity: int) -> None:
        self.listener = listener
        self.section = section
        self.granularity = granularity
        self.missing = RunSet()
        self.stale = RunSet()
        self._error = ""
        # What became stale (True) or missing (False) since the change that is going on began.
        self._news: list[tuple[Run, bool]] = []
        # What the listener has said that it lost, and has not been given or asked for since.
        self._lost = RunSet()
        # What the listener has said last that it may have or not.
        self._doubted = RunSet()
        self._books = listener if isinstance(listener, KeepsBooks) else None

    def clip(self, runs: Sequence[Run]) -> list[Run]:
        """The parts of runs that lie within the section."""
        return intersect(runs, [self.section.run])

    def begin(self) -> None:
        """A change begins, whose news() will be asked for if it fails."""
        self._news.clear()

    def news(self) -> list[Divergence]:
        """The divergences that the change which is going on has led to."""
        return [
            self._divergence(left, stale)
            for run, stale in self._news
            for left in (self.stale if stale else self.missing).overlap(run)
        ]

    def populate(self, run: Run) -> None:
        """Let the listener hold run, which is stale until confirm().

        Raises what it raises; it holds nothing of run then, or stale says what.
        """
        self.stale.add(run)
        try:
            self._give(run)
        except OSError as error:
            self.stale.remove(run)
            self._became_stale(_changed(error, run), error)
            raise
        except BaseException:
            # It did not say how far it came.
            self.withdraw(run)
            raise

    def confirm(self, run: Run) -> None:
        """run, which was populated, is so for whoever asks."""
        self.stale.remove(run)

    def discard(self, run: Run, held: Sequence[Run]) -> None:
        """Take run from the listener, of which it holds held: that is missing until settle() or restore().

        Raises what it raises; it holds all that it held then, or missing says what not.
        """
        for part in held:
            self.missing.add(part)
        try:
            self._take(run)
        except OSError as error:
            for part in held:
                self.missing.remove(part)
            for part in _changed(error, run):
                self._became_missing(subtract([part], self.stale.overlap(part)), error)
                self.stale.remove(part)
            raise
        except BaseException:
            # It did not say how far it came. Once all of it is taken, all of it can be given.
            with suppress(Exception):
                self._take(run)
            self.restore(held)
            raise
        self.stale.remove(run)

    def withdraw(self, run: Run) -> None:
        """Undo populate(run), or record as stale what the listener would not let go of."""
        self.stale.add(run)
        try:
            self._take(run)
        except Exception as error:
            changed = _changed(error, run)
            for part in changed:
                self.stale.remove(part)
            self._became_stale(subtract([run], changed), error)
        else:
            self.stale.remove(run)

    def restore(self, runs: Sequence[Run]) -> None:
        """Undo a discard of runs, or record as missing what the listener would not take."""
        for run in runs:
            self.missing.add(run)
        for run in runs:
            try:
                self._give(run)
            except Exception as error:
                changed = _changed(error, run)
                for part in changed:
                    self.missing.remove(part)
                self._became_missing(subtract([run], changed), error)
            else:
                self.missing.remove(run)

    def require_room(self, run: Run) -> None:
        """Raises what populate(run) would raise for want of room, as far as the listener can tell."""
        if self._books is not None:
            self._books.require_room(self._part(run), self.granularity)

    def settle(self, run: Run) -> None:
        """run is discarded for good: forget what was missing of it, and tell the listener. Raises what it raises."""
        self.missing.remove(run)
        self.listener.discarded(self._part(run))

    def look(self, *, thorough: bool) -> None:
        """Record as missing what the listener has lost, if it keeps books.

        thorough: look at all of it; otherwise at as much as shows that it has lost everything.
        """
        if self._books is None:
            return
        self._look_at_doubts(self._books)
        parts = self._books.lost(self.section, thorough=thorough)
        if thorough:
            # Whatever it was that was lost may be wanted no more, as a guest's mapping that was revoked is not.
            for run in subtract(list(self._lost), union(part.run for part in parts)):
                self.missing.remove(run)
                self._lost.remove(run)
        for part in parts:
            new = subtract([part.run], self._lost.overlap(part.run))
            # What is stale it ought not to hold: it is no loss.
            found = subtract(new, union([*self.stale.overlap(part.run), *self.missing.overlap(part.run)]))
            for run in new:
                self._lost.add(run)
                self.stale.remove(run)
            if found:
                self._became_missing(found, "it is lost: nobody has discarded it, and it is not there any more")
                lost = sum(run.size for run in found)
                _log.warning("%s has lost %#x bytes of %s, which nobody has discarded", self.listener.name, lost, part)

    def _look_at_doubts(self, books: KeepsBooks) -> None:
        """Record as missing what may not be there, until it is known. What is stale may be there, and stays so."""
        doubted = union(part.run for part in books.doubted(self.section))
        known = list(self._doubted)
        for run in subtract(known, doubted):
            self._doubted.remove(run)
            for part in subtract([run], list(self._lost)):
                self.missing.remove(part)
        for run in doubted:
            held_wrongly = self.stale.overlap(run)
            self._became_missing(subtract([run], union([*held_wrongly, *self.missing.overlap(run)])), _DOUBT)
            self._doubted.add(run)

    def reconcile(self, populated: Callable[[Run], Sequence[Run]]) -> None:
        """What was interrupted may have been committed. populated: what of a run is populated."""
        for run in self.stale:
            for part in populated(run):
                self.stale.remove(part)
        for run in self.missing:
            for part in subtract([run], populated(run)):
                self.missing.remove(part)

    def repair(self) -> None:
        """Try again to take what is stale from the listener, then to give it what is missing."""
        for run in self.stale:
            self.withdraw(run)
        self.restore(list(self.missing))

    def begun(self, repair: Callable[[], Iterable[Divergence]]) -> None:
        """The listener is about to be registered with a manager, whose repair() this is."""
        if self._books is not None:
            self._books.registered(self.section, lambda: [str(each) for each in repair() if self._is_of(each)])

    def _is_of(self, divergence: Divergence) -> bool:
        return divergence.listener == self.listener.name and divergence.section.memory is self.section.memory

    def ended(self) -> None:
        """The listener is registered no more, and holds nothing."""
        if self._books is not None:
            self._books.released(self.section)

    @property
    def divergences(self) -> list[Divergence]:
        """What is stale and what is missing, each run with its section."""
        return [
            self._divergence(run, stale) for runs, stale in ((self.stale, True), (self.missing, False)) for run in runs
        ]

    def _give(self, run: Run) -> None:
        self.listener.populate(self._part(run), self.granularity)
        self._known_by_now(run)

    def _take(self, run: Run) -> None:
        self.listener.discard(self._part(run))
        self._known_by_now(run)

    def _known_by_now(self, run: Run) -> None:
        """The listener has run, or not, for certain: if it is missing, that does not end with a doubt of before."""
        self._lost.remove(run)
        self._doubted.remove(run)

    def _became_stale(self, runs: Iterable[Run], error: Exception) -> None:
        self._note(self.stale, runs, True, str(error))

    def _became_missing(self, runs: Iterable[Run], error: Exception | str) -> None:
        runs = list(runs)
        for run in runs:
            # Known by now: it does not come back with the end of a doubt.
            self._doubted.remove(run)
        self._note(self.missing, runs, False, str(error))

    def _note(self, known: RunSet, runs: Iterable[Run], stale: bool, error: str) -> None:
        for run in runs:
            known.add(run)
            self._news.append((run, stale))
            self._error = error

    def _divergence(self, run: Run, stale: bool) -> Divergence:
        return Divergence(self.listener.name, self._part(run), stale, self._error)

    def _part(self, run: Run) -> Section:
        part = self.section.intersect(run)
        assert part is not None
        return part


def _changed(error: Exception, run: Run) -> list[Run]:
    if not isinstance(error, ListenerDiverged):
        return []
    return intersect(union(section.run for section in error.changed), [run])
