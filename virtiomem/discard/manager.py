"""RamDiscardManager: tells everyone who holds a region's memory before parts of it come and go."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pyvfio.errors import InvalidArgument
from virtiomem.discard.errors import ListenerDiverged, few
from virtiomem.discard.registration import Divergence, Registration
from virtiomem.discard.section import Backing, RamDiscardListener, RamDiscardSource, Section
from virtiomem.discard.telling import Telling
from virtiomem.runs import Run, intersect, subtract, union

_log = logging.getLogger(__package__)


class RamDiscardManager:
    """Keeps what every listener holds of a region equal to what is populated in it.

    A byte is populated if every source says that it is; without a source all bytes are, but for those that a source
    which has retired left discarded. Listeners are told of what is populated in the order in which they registered, and
    in reverse order of what is discarded. Each change reaches all of them or none: when one listener fails the others
    are put back, last first. Where even that fails, or a listener has lost what it held, divergences says who holds
    what, and every later change begins with trying to repair it.

    Methods may be called from any thread. lock is held during every change; a source holds it from before it announces
    a change until it has committed it. memory: what the region is a part of. region, and every other run, is of bytes
    of the memory.
    """

    def __init__(self, memory: Backing, *, offset: int = 0, size: int | None = None) -> None:
        """The region is size bytes (default: the rest) of memory from offset."""
        self.memory = memory
        self.region = Run(offset, memory.size - offset if size is None else size)
        self.lock = threading.RLock()
        # Each source, with what it took on of those that had retired.
        self._sources: list[tuple[RamDiscardSource, list[Run]]] = []
        # What sources that have retired left discarded, and no source has taken on since.
        self._vacant: list[Run] = []
        self._registrations: list[Registration] = []
        # Listeners that are not registered, but hold something that they could not let go of.
        self._leaving: list[Registration] = []
        self._known: tuple[Divergence, ...] = ()
        self._telling = Telling("listeners")

    @property
    def granularity(self) -> int:
        """The unit of change in bytes, a power of two: the finest of all sources."""
        ends = self.region.start | self.region.end
        with self.lock:
            return min((source.granularity for source, _ in self._sources), default=ends & -ends)

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """Where listeners hold something else than what is populated just now. Every listener's books are looked at."""
        with self.lock:
            self._look(thorough=True)
            return self._divergences()

    @property
    def known_divergences(self) -> tuple[Divergence, ...]:
        """The divergences; those of before a change that is going on, for which it does not wait."""
        if not self.lock.acquire(blocking=False):
            return self._known
        try:
            return self.divergences
        finally:
            self.lock.release()

    @property
    def failures_to_tell(self) -> int:
        """How often a listener that was told of a discard, after it, has raised something."""
        return self._telling.failures

    def sections(self, listener: RamDiscardListener) -> tuple[Section, ...]:
        """The sections that listener is registered for, in the order of registration."""
        with self.lock:
            return tuple(registration.section for registration in self._find(listener, None))

    def is_populated(self, offset: int, size: int) -> bool:
        """Whether every byte of the range is populated, whatever its alignment. No byte outside the region is."""
        run = Run(offset, size)
        with self.lock:
            return self._populated(run) == [run]

    def populated_runs(self, within: Run) -> list[Run]:
        """The maximal populated runs, clipped to within, ascending."""
        with self.lock:
            return self._populated(within)

    def replay_populated(self, section: Section, function: Callable[[Section], None]) -> None:
        """Call function with each maximal populated part of section, ascending. What it raises ends the replay."""
        with self.lock:
            _replay(section, self._populated(section.run), function)

    def replay_discarded(self, section: Section, function: Callable[[Section], None]) -> None:
        """Call function with each maximal discarded part of section, ascending. What it raises ends the replay."""
        with self.lock:
            within = intersect([section.run], [self.region])
            _replay(section, subtract(within, self._populated(section.run)), function)

    def register(self, listener: RamDiscardListener, section: Section) -> None:
        """Let listener hold what is populated of section, from now on.

        A listener may register several sections, and sections of different listeners may overlap. The listener is
        promised the granularity of this moment. Raises InvalidArgument, and what the listener raises; it is not
        registered then, and holds nothing, or divergences says what.
        """
        with self.lock:
            self._check_section(section)
            if self._find(listener, section):
                operation = f"register {listener.name} for {section}"
                raise InvalidArgument(errno.EEXIST, operation, meaning="it is registered already")
            # It may have left something behind the last time.
            self._prepare()
            listener.accept(section, self.granularity)
            registration = Registration(listener, section, self.granularity)
            self._leaving.append(registration)
            try:
                registration.begun(self.repair)
                populated = self._populated(section.run)
                with self._transaction(f"register {listener.name}") as undo:
                    self._populate(registration, populated, undo)
                    self._registrations.append(registration)
                self._confirm([registration], populated)
            finally:
                self._forget_who_left()

    def unregister(self, listener: RamDiscardListener, section: Section | None = None) -> None:
        """Take from listener what it holds of section (default: of all its sections), and forget it.

        The listener gets one discard for each section of which it holds anything. Raises InvalidArgument if it is not
        registered, and what the listener raises; it stays registered then, with all that it held.
        """
        with self.lock:
            leaving = self._find(listener, section)
            if not leaving:
                where = "" if section is None else f" for {section}"
                raise InvalidArgument(
                    errno.ENOENT, f"unregister {listener.name}{where}", meaning="it is not registered"
                )
            with self._transaction(f"unregister {listener.name}") as undo:
                for registration in reversed(leaving):
                    self._discard(registration, registration.section.run, undo)
            self._registrations = [other for other in self._registrations if other not in leaving]
            for registration in leaving:
                self._telling.tell(registration.settle, registration.section.run)
            self._leaving += leaving
            self._forget_who_left()

    def add_source(self, source: RamDiscardSource) -> None:
        """From now on source, too, must say that a byte is populated; listeners let go of those that it does not.

        What it says is discarded it takes on from sources that have retired. Raises InvalidArgument if its granularity
        is finer than what a listener was promised, and what a listener raises. The source is not added then.
        """
        with self.lock:
            if self._is_source(source):
                raise InvalidArgument(errno.EEXIST, f"add source {source.name}", meaning="it is a source already")
            self._check_granularity(source)
            self._prepare()
            runs = subtract(self._populated(self.region), source.populated_runs(self.region))
            with self._transaction(f"add source {source.name}") as undo:
                self._discard_all(runs, undo)
            taken_on = subtract(self._vacant, source.populated_runs(self.region))
            self._vacant = subtract(self._vacant, taken_on)
            self._sources.append((source, taken_on))
            self._settle(runs)

    def remove_source(self, source: RamDiscardSource) -> None:
        """From now on what only source said is discarded is populated, but for what it took on: that is as before.

        Raises InvalidArgument if it is not a source, and what a listener raises; it stays a source then.
        """
        with self.lock:
            self._check_source(source)
            self._prepare()
            taken_on = next(taken for known, taken in self._sources if known is source)
            vacant = union([*self._vacant, *taken_on])
            populated = subtract(self._populated(self.region, without=source), vacant)
            runs = subtract(populated, source.populated_runs(self.region))
            self._check_stale(runs)
            with self._transaction(f"remove source {source.name}") as undo:
                self._populate_all(runs, undo)
            self._sources = [(known, taken) for known, taken in self._sources if known is not source]
            self._vacant = vacant
            self._confirm(self._registrations, runs)

    def retire_source(self, source: RamDiscardSource) -> None:
        """source decides no more. What only it says is discarded stays so, until another source takes it on.

        No listener is asked, so that this cannot fail: none holds what is discarded. Raises InvalidArgument if it is
        not a source.
        """
        with self.lock:
            self._check_source(source)
            discarded = subtract(self._populated(self.region, without=source), source.populated_runs(self.region))
            self._sources = [(known, taken) for known, taken in self._sources if known is not source]
            self._vacant = union([*self._vacant, *discarded])

    def populate(self, source: RamDiscardSource, run: Run) -> None:
        """source is about to populate run: let the listeners hold what all other sources have populated of it.

        Raises what a listener raises, or ListenerDiverged; no listener holds any of it then.
        """
        with self.populating(source, run):
            pass

    @contextmanager
    def populating(self, source: RamDiscardSource, run: Run) -> Iterator[ExitStack]:
        """Let the listeners hold what all other sources have populated of run; source commits it in the with block.

        The block gets what undoes it all: source pushes how it takes its commit back. Raises what a listener or the
        block raises, or ListenerDiverged; no listener holds any of run then.
        """
        with self.lock:
            self._check_source(source)
            self._prepare()
            runs = self._populated(run, without=source)
            self._check_stale(runs)
            with self._transaction("populate") as undo:
                self._populate_all(runs, undo)
                yield undo
            self._confirm(self._registrations, runs)

    @contextmanager
    def discarding(self, source: RamDiscardSource, run: Run) -> Iterator[ExitStack]:
        """Let the listeners let go of run; source discards it, and commits that, in the with block.

        A listener that holds anything of run gets one discard. If a listener or the block fails, every listener gets
        back what it had. The block gets what undoes it all: source pushes how it takes its commit back. Raises what a
        listener or the block raises, or ListenerDiverged.
        """
        with self.lock:
            self._check_source(source)
            self._prepare()
            with self._transaction("discard") as undo:
                self._discard_all([run], undo)
                yield undo
            self._settle([run])

    def require_room(self, run: Run) -> None:
        """Raises what a listener would raise if it held run, too, as far as it can tell before anything is changed."""
        with self.lock:
            for registration in self._registrations:
                for part in registration.clip([run]):
                    registration.require_room(part)

    def stale(self, run: Run) -> list[Run]:
        """What listeners hold of run although it is discarded."""
        with self.lock:
            known = (*self._registrations, *self._leaving)
            return union(stale for registration in known for stale in registration.stale.overlap(run))

    def holds(self, run: Run) -> bool:
        """Whether a listener holds some of run although it is discarded. Its memory must not be given back then."""
        with self.lock:
            known = (*self._registrations, *self._leaving)
            return any(registration.stale.overlap(run) for registration in known)

    def repair(self) -> tuple[Divergence, ...]:
        """Look at every listener's books, and try to bring diverged ones back; return the divergences that are left."""
        with self.lock:
            self._prepare(thorough=True)
            return self._divergences()

    def _prepare(self, *, thorough: bool = False) -> None:
        """Before every change: bring back who has diverged, as far as that can be done."""
        self._look(thorough=thorough)
        for registration in (*self._leaving, *reversed(self._registrations)):
            registration.repair()
        self._forget_who_left()

    def _look(self, *, thorough: bool) -> None:
        for registration in self._registrations:
            registration.look(thorough=thorough)
            registration.reconcile(self._populated)
        for registration in self._leaving:
            registration.look(thorough=thorough)

    def _forget_who_left(self) -> None:
        """Be done with listeners that are registered no more, and hold nothing."""
        left = [each for each in self._leaving if not each.stale and each not in self._registrations]
        self._leaving = [each for each in self._leaving if each.stale and each not in self._registrations]
        for registration in left:
            self._telling.tell(registration.ended)

    def _divergences(self) -> tuple[Divergence, ...]:
        known = (*self._registrations, *self._leaving)
        return tuple(divergence for registration in known for divergence in registration.divergences)

    def _populated(self, within: Run, without: RamDiscardSource | None = None) -> list[Run]:
        runs = subtract(intersect([within], [self.region]), self._vacant)
        for source, _ in self._sources:
            if source is not without and runs:
                runs = intersect(runs, source.populated_runs(Run(runs[0].start, runs[-1].end - runs[0].start)))
        return runs

    def _populate_all(self, runs: Sequence[Run], undo: ExitStack) -> None:
        for registration in self._registrations:
            self._populate(registration, runs, undo)

    def _populate(self, registration: Registration, runs: Sequence[Run], undo: ExitStack) -> None:
        for run in registration.clip(runs):
            registration.populate(run)
            undo.callback(registration.withdraw, run)

    def _discard_all(self, runs: Sequence[Run], undo: ExitStack) -> None:
        for registration in reversed(self._registrations):
            for run in registration.clip(runs):
                self._discard(registration, run, undo)

    def _discard(self, registration: Registration, run: Run, undo: ExitStack) -> None:
        """Discard the whole run with one call, however many parts of it are held: one unmap is enough for a mapper."""
        populated = self._populated(run)
        if populated or registration.stale.overlap(run):
            held = subtract(populated, registration.missing.overlap(run))
            registration.discard(run, held)
            undo.callback(registration.restore, held)

    def _confirm(self, registrations: Iterable[Registration], runs: Sequence[Run]) -> None:
        for registration in registrations:
            for run in registration.clip(runs):
                registration.confirm(run)

    def _settle(self, runs: Sequence[Run]) -> None:
        """runs are discarded for good: tell everyone, whoever fails."""
        for registration in self._registrations:
            for run in registration.clip(runs):
                self._telling.tell(registration.settle, run)

    @contextmanager
    def _transaction(self, operation: str) -> Iterator[ExitStack]:
        """Undo what the block has done, last first, if it fails. Raises ListenerDiverged if that fails, too."""
        concerned = (*self._registrations, *self._leaving)
        for registration in concerned:
            registration.begin()
        self._known = self._divergences()
        try:
            with ExitStack() as undo:
                yield undo
                undo.pop_all()
        except OSError as error:
            if diverged := [news for registration in concerned for news in registration.news()]:
                text = few(diverged, "; ")
                _log.error("%s: %s; then %s", operation, error, text)
                raise ListenerDiverged(operation, f"{error}; then {text}") from error
            raise

    def _find(self, listener: RamDiscardListener, section: Section | None) -> list[Registration]:
        return [
            registration
            for registration in self._registrations
            if registration.listener is listener and section in (None, registration.section)
        ]

    def _is_source(self, source: RamDiscardSource) -> bool:
        return any(source is known for known, _ in self._sources)

    def _check_source(self, source: RamDiscardSource) -> None:
        if not self._is_source(source):
            raise InvalidArgument(errno.ENOENT, f"source {source.name}", meaning="it is not a source of this region")

    def _check_section(self, section: Section) -> None:
        run = section.run
        inside = section.size > 0 and self.region.start <= run.start and run.end <= self.region.end
        if section.memory is not self.memory or not inside:
            raise InvalidArgument(errno.EINVAL, f"section {section}", meaning="not a part of this region")

    def _check_granularity(self, source: RamDiscardSource) -> None:
        granularity, operation = source.granularity, f"add source {source.name}"
        if granularity <= 0 or granularity & (granularity - 1):
            raise InvalidArgument(errno.EINVAL, operation, {"granularity": granularity}, "not a power of two")
        for registration in self._registrations:
            if granularity < registration.granularity:
                raise InvalidArgument(
                    errno.EINVAL,
                    operation,
                    {"granularity": granularity},
                    f"{registration.listener.name} holds units of {registration.granularity:#_x} bytes, "
                    "which cannot be discarded in parts",
                    "Add the source first, then register the listener",
                )

    def _check_stale(self, runs: Sequence[Run]) -> None:
        for registration in (*self._registrations, *self._leaving):
            if any(registration.stale.overlap(run) for run in runs):
                raise ListenerDiverged("populate", few(registration.divergences, "; "))


def _replay(section: Section, runs: Sequence[Run], function: Callable[[Section], None]) -> None:
    for run in runs:
        part = section.intersect(run)
        assert part is not None
        function(part)
