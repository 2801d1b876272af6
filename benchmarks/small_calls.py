"""What Python costs where no kernel is waited for, beside a peer in the same run: python -m benchmarks.small_calls.

A row is a ratio, or a time or a rate where there is no peer, and a goal. Rounds are interleaved; the median counts, and
the spread is that of the middle half of the rounds. With --json the rows are printed as data.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

from pyvfio import DirtyBitmap, Memory, MemoryKind
from virtiomem import Request, RequestType, VirtioMem

PAGE = 4096
BITMAP = 2 << 20
"""Bytes of the bitmap of 64 GiB."""
BLOCK = 16 << 20
RUNS = 32768
ADDRESS = 1 << 40


@dataclass(frozen=True, slots=True)
class Row:
    """what: is measured. median and spread: in unit. goal: at most, or for a rate at least. peer: what it is beside."""

    what: str
    median: float
    spread: float
    unit: str
    goal: float
    peer: str

    @property
    def is_met(self) -> bool:
        return self.median >= self.goal if self.unit == "GB/s" else self.median <= self.goal

    def __str__(self) -> str:
        bound = "at least" if self.unit == "GB/s" else "at most"
        goal = f"{bound} {self.goal:g}"
        return (
            f"{self.what:48}{self.median:>9.3g} ± {self.spread:<8.2g}{self.unit:6}{goal:>14}  "
            f"{'met' if self.is_met else 'short':6}{self.peer}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each row (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print data")
    options = parser.parse_args()
    rows = [*imports(options.rounds), *bitmaps(options.rounds), *copies(options.rounds), *runs(options.rounds)]
    if options.json:
        print(json.dumps([{**asdict(row), "met": row.is_met} for row in rows], indent=2))
    else:
        print(*rows, sep="\n")


def imports(rounds: int) -> Iterator[Row]:
    """Starting a process, beside starting Python."""
    python = partial(_start, "-c", "")
    for what, goal, words in (
        ("import pyvfio", 40, ("-c", "import pyvfio")),
        ("import virtiomem", 80, ("-c", "import virtiomem")),
        ("from pyvfio import Container", 40, ("-c", "from pyvfio import Container")),
        ("from virtiomem import VirtioMem", 80, ("-c", "from virtiomem import VirtioMem")),
        ("virtiomem show --help", 150, ("-m", "virtiomem", "show", "--help")),
    ):
        empty, full = _interleaved(rounds, python, partial(_start, *words))
        over = [1e3 * (mine - theirs) for mine, theirs in zip(full, empty, strict=True)]
        if words[0] == "-c":
            yield _row(what, over, "ms", goal, "beyond an empty interpreter")
        else:
            yield _row(what, [1e3 * mine for mine in full], "ms", goal, "a process, whole")


def bitmaps(rounds: int) -> Iterator[Row]:
    """The runs of a dirty bitmap of 64 GiB."""
    source = random.Random(1)
    for what, goal, count in (("sparse: 100 dirty bytes", 2, 100), ("dense: 20,000 dirty bytes", 0.2, 20_000)):
        data = bytearray(BITMAP)
        for place in source.sample(range(BITMAP), count):
            data[place] = source.randrange(1, 256)
        bitmap = DirtyBitmap(0, BITMAP * 8 * PAGE, PAGE, int.from_bytes(data, "little"))
        (times,) = _interleaved(rounds, bitmap.runs)
        yield _row(f"runs of a bitmap of 64 GiB, {what}", [BITMAP / each / 1e9 for each in times], "GB/s", goal, "")


def copies(rounds: int) -> Iterator[Row]:
    """Small copies of memory, beside ctypes by hand."""
    repeat = range(2000)
    with Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20) as memory:
        address = memory.address
        for what, sizes in (("64 bytes", [64] * 2000), ("1 to 2,000 bytes", [*range(1, 2001)])):

            def ours(sizes: list[int] = sizes) -> None:
                for place in repeat:
                    memory.read(place, sizes[place])

            def theirs(sizes: list[int] = sizes) -> None:
                for place in repeat:
                    ctypes.string_at(address + place, sizes[place])

            yield _ratio(f"Memory.read of {what}", rounds, ours, theirs, 4, "ctypes.string_at")


def runs(rounds: int) -> Iterator[Row]:
    """A device whose plugged blocks lie in 32,768 runs."""
    with ExitStack() as stack:
        memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 2 * RUNS * BLOCK))
        device = stack.enter_context(
            VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False)
        )
        for block in range(0, 2 * RUNS, 2):
            device.handle(bytes(Request(RequestType.PLUG, ADDRESS + block * BLOCK, 1)))
        for what, way in (("plugged_runs", lambda: device.plugged_runs), ("save", device.save)):
            (times,) = _interleaved(rounds, way)
            yield _row(f"{what} of 32,768 runs", [1e3 * each for each in times], "ms", 30, "")


def _ratio(
    what: str, rounds: int, ours: Callable[[], object], theirs: Callable[[], object], goal: float, peer: str
) -> Row:
    mine, others = _interleaved(rounds, ours, theirs)
    ratios = [one / other for one, other in zip(mine, others, strict=True)]
    return _row(what, ratios, "times", goal, f"beside {peer}")


def _row(what: str, values: list[float], unit: str, goal: float, peer: str) -> Row:
    low, median, high = statistics.quantiles(values, n=4)
    return Row(what, median, (high - low) / 2, unit, goal, peer)


def _interleaved(rounds: int, *ways: Callable[[], object]) -> list[list[float]]:
    """Seconds of each round of each of the ways, in turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
    return seconds


def _start(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
