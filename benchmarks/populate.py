"""How fast memory is populated: one and two threads, 4 KiB and transparent huge pages, beside a plain memset."""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from functools import partial

from pyvfio import Memory, MemoryKind

GIBIBYTE = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2, help="GiB to populate (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; the fastest counts (default: %(default)s)")
    options = parser.parse_args()
    size = options.size * GIBIBYTE
    print(f"populate {options.size} GiB, fastest of {options.repeat}")
    print(f"{'memory':8}{'memset':>14}{'1 thread':>14}{'2 threads':>14}{'1 / memset':>14}{'2 / 1':>10}")
    for kind in (MemoryKind.ANONYMOUS, MemoryKind.THP):
        with Memory.allocate(kind, size) as memory:
            ways: list[Callable[[], object]] = [
                partial(ctypes.memset, memory.address, 0, size),
                partial(memory.populate, 0, size, threads=1),
                partial(memory.populate, 0, size, threads=2),
            ]
            seconds: list[list[float]] = [[] for _ in ways]
            for _ in range(options.repeat):
                for way, times in zip(ways, seconds, strict=True):
                    start = time.perf_counter()
                    way()
                    times.append(time.perf_counter() - start)
                    memory.discard(0, size)
            rates = [size / GIBIBYTE / min(times) for times in seconds]
        columns = "".join(f"{rate:>9.1f} GB/s" for rate in (rate * GIBIBYTE / 1e9 for rate in rates))
        print(f"{kind.value:8}{columns}{rates[1] / rates[0]:>13.2f}x{rates[2] / rates[1]:>9.2f}x")


if __name__ == "__main__":
    main()
