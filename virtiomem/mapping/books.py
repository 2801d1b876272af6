"""Books: what a mapper has mapped of a section, as it has noted it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from virtiomem.discard import DiscardHold, Section
from virtiomem.mapping.claims import Claim
from virtiomem.runs import Run, RunSet


class Books:
    """What a mapper has mapped of one section that it is registered for. Methods may be called from any thread.

    Runs are of bytes of the memory. They are entered before the address space is asked, and corrected after. unsure:
    whether a call was cut short, by a signal for example, so that there may be less than is entered. claim: the
    addresses. hold: the claim on the memory; None if another one covers it. repair: has the section's manager give
    again what is lost; returns what is left of that.
    """

    def __init__(self, section: Section, granularity: int, claim: Claim, hold: DiscardHold | None) -> None:
        self.section = section
        self.granularity = granularity
        self.claim = claim
        self.hold = hold
        self.repair: Callable[[], Sequence[str]] = tuple
        self.unsure = False
        self._mapped = RunSet()
        self._lock = threading.Lock()

    def enter(self, runs: Iterable[Run]) -> None:
        """Note that runs are mapped, or about to be."""
        with self._lock:
            for run in runs:
                self._mapped.add(run)

    def strike(self, runs: Iterable[Run]) -> None:
        """Note that runs are not mapped."""
        with self._lock:
            for run in runs:
                self._mapped.remove(run)

    def entered(self, run: Run) -> list[Run]:
        """What is mapped of run."""
        with self._lock:
            return self._mapped.overlap(run)

    @property
    def first(self) -> Run | None:
        """The first run that is mapped; None if nothing is."""
        with self._lock:
            return self._mapped.first

    @property
    def mappings(self) -> int:
        """How many mappings there are: one for each block."""
        return sum(blocks_of(run, self.granularity) for run in self.entered(self.section.run))

    @property
    def size(self) -> int:
        """How many bytes are mapped."""
        return sum(run.size for run in self.entered(self.section.run))

    def close(self) -> None:
        """Give up the claims."""
        self.claim.release()
        if self.hold is not None:
            self.hold.release()


def blocks_of(run: Run, granularity: int) -> int:
    """How many mappings run takes, one for each part of it between two multiples of granularity."""
    return -(-run.end // granularity) - run.start // granularity
