"""Exercise: an edu device does DMA to plugged blocks all the while, and what it reads back is checked."""

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
"""Bytes at a time."""

_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class ExerciseCounts:
    """transfers: DMA transfers; verified_bytes: written to the region, and read back as they were.

    raced: the block was unplugged meanwhile, so its content means nothing. mismatches: it was not, and yet differed.
    failure: what ended it, if something did.
    """

    transfers: int = 0
    verified_bytes: int = 0
    raced: int = 0
    mismatches: int = 0
    failure: str | None = None


class Exercise(Resource):
    """Runs in a thread of its own until close().

    Content goes from staging memory through the device to a block and back by DMA alone: the CPU never touches the
    region, so no block that is unplugged meanwhile gets a page from it.
    """

    def __init__(self, engine: Edu, staging: Memory, device: VirtioMem) -> None:
        """engine: a device whose address space has staging at STAGING_IOVA and the region at its own addresses."""
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
        return self._counts

    def counts_data(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self._counts)

    def _run(self) -> None:
        try:
            while not self._ending.wait(_PAUSE):
                # Counted first: what is plugged now and unplugged before the end is noticed.
                unplugs = self._unplugs()
                runs = self._device.plugged_runs
                if runs:
                    run = self._random.choice(runs)
                    self._round(run.start + self._random.randrange(run.size // TRANSFER) * TRANSFER, unplugs)
        except OSError as error:
            self._counts = replace(self._counts, failure=str(error))

    def _round(self, address: int, unplugs: int) -> None:
        """Write to address, forget, read back."""
        note = self._random.randbytes(TRANSFER)
        self._staging.write(0, note)
        self._staging.write(TRANSFER, bytes(TRANSFER))
        self._engine.fetch(STAGING_IOVA, TRANSFER)
        self._engine.store(address, TRANSFER)
        # The device's buffer still has the note: what is read back must not come from there.
        self._engine.fetch(STAGING_IOVA + TRANSFER, TRANSFER)
        self._engine.fetch(address, TRANSFER)
        self._engine.store(STAGING_IOVA + TRANSFER, TRANSFER)
        same = self._staging.read(TRANSFER, TRANSFER) == note
        counts = replace(self._counts, transfers=self._counts.transfers + 5)
        if same:
            self._counts = replace(counts, verified_bytes=counts.verified_bytes + TRANSFER)
        elif self._unplugs() != unplugs:
            self._counts = replace(counts, raced=counts.raced + 1)
        else:
            self._counts = replace(counts, mismatches=counts.mismatches + 1)

    def _unplugs(self) -> int:
        """However they ended: one that is taken back has unmapped for a moment too."""
        kinds = (RequestType.UNPLUG, RequestType.UNPLUG_ALL)
        return sum(count for (kind, _), count in self._device.statistics.responses.items() if kind in kinds)

    def _release(self) -> None:
        if not self._inherited:
            self._ending.set()
            self._thread.join()

    def __repr__(self) -> str:
        return f"<Exercise of {self._engine.device.address}>"
