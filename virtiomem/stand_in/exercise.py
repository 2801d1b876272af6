"""Exercise: lets an edu device do DMA to plugged blocks all the while, and checks what it reads back."""

from __future__ import annotations

import random
import threading
from dataclasses import asdict, dataclass, replace

from pyvfio.drivers.edu import Edu
from pyvfio.memory import Memory
from pyvfio.resource import Resource
from virtiomem.device import RequestType, VirtioMem

STAGING_IOVA = 0x1000_0000
STAGING_SIZE = 2 << 20
TRANSFER = 2048
"""Bytes of one DMA transfer."""

_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class ExerciseCounts:
    """What an Exercise has done so far.

    transfers: DMA transfers. verified_bytes: how many bytes were written to the region and read back as they were.
    raced: rounds whose block was unplugged meanwhile, so that its content means nothing. mismatches: rounds whose block
    was not unplugged, and yet had other content. failure: what ended the exercise; None while it runs.
    """

    transfers: int = 0
    verified_bytes: int = 0
    raced: int = 0
    mismatches: int = 0
    failure: str | None = None


class Exercise(Resource):
    """Runs in a thread of its own until close().

    Content goes from staging memory through the device to a block and back by DMA alone. The CPU never touches the
    region, so a block that is unplugged meanwhile gets no new page from it.
    """

    def __init__(self, engine: Edu, staging: Memory, device: VirtioMem) -> None:
        """Begin. engine: a device that reaches staging at STAGING_IOVA, and device's region at its own addresses."""
        self._engine = engine
        self._staging = staging
        self._device = device
        self._counts = ExerciseCounts()
        self._random = random.Random(24)
        self._ending = threading.Event()
        super().__init__()
        self._thread = threading.Thread(target=self._run, name="exercise", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> ExerciseCounts:
        """What it has done so far."""
        return self._counts

    def counts_data(self) -> dict[str, object]:
        """The counts as JSON values."""
        return asdict(self._counts)

    def _run(self) -> None:
        try:
            while not self._ending.wait(_PAUSE):
                # Count before looking at what is plugged: a block that is unplugged after that is noticed.
                unplugs = self._unplugs()
                runs = self._device.plugged_runs
                if runs:
                    run = self._random.choice(runs)
                    self._round(run.start + self._random.randrange(run.size // TRANSFER) * TRANSFER, unplugs)
        except OSError as error:
            self._counts = replace(self._counts, failure=str(error))

    def _round(self, address: int, unplugs: int) -> None:
        """Let the device write to address, make it forget what it wrote, and let it read that back."""
        note = self._random.randbytes(TRANSFER)
        self._staging.write(0, note)
        self._staging.write(TRANSFER, bytes(TRANSFER))
        self._engine.fetch(STAGING_IOVA, TRANSFER)
        self._engine.store(address, TRANSFER)
        # The device's buffer still holds the note, and what is read back must not come from there.
        self._engine.fetch(STAGING_IOVA + TRANSFER, TRANSFER)
        self._engine.fetch(address, TRANSFER)
        self._engine.store(STAGING_IOVA + TRANSFER, TRANSFER)
        same = self._staging.read(TRANSFER, TRANSFER) == note
        counts = replace(self._counts, transfers=self._counts.transfers + 5)
        if same:
            self._counts = replace(counts, verified_bytes=counts.verified_bytes + TRANSFER)
        elif self._unplugs_by_now() != unplugs:
            self._counts = replace(counts, raced=counts.raced + 1)
        else:
            self._counts = replace(counts, mismatches=counts.mismatches + 1)

    def _unplugs(self) -> int:
        """How many unplugs there were, however they ended: one that was undone has unmapped for a moment, too."""
        kinds = (RequestType.UNPLUG, RequestType.UNPLUG_ALL)
        return sum(count for (kind, _), count in self._device.statistics.responses.items() if kind in kinds)

    def _unplugs_by_now(self) -> int:
        """The same, with one that is being carried out: it has unmapped already, and is counted when it is answered."""
        # Whoever asks for this waits for a request.
        _ = self._device.next_event_time
        return self._unplugs()

    def _release(self) -> None:
        if not self._inherited:
            self._ending.set()
            self._thread.join()

    def __repr__(self) -> str:
        return f"<Exercise of {self._engine.device.address}>"
