"""What one block costs in a region of 65,536, beside how many runs they lie in: python -m benchmarks.many_blocks.

The address space keeps books and maps nothing, so this is the library's own time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

from pyvfio import Memory, MemoryKind
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem import DmaMapper, Request, RequestType, VirtioMem
from virtiomem.trace import DmaLog

BLOCK = 16 << 20
BLOCKS = 65536
ADDRESS = 1 << 40
SAMPLE = 400


def main() -> None:
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size, prealloc=False) as device,
    ):
        log = DmaLog()
        device.discards.register(DmaMapper(RecordingAddressSpace(0, log)), device.section)
        print(f"{'plugged in':>12}{'plug one':>14}{'unplug one':>14}   median of {SAMPLE}")
        for runs in (1, 1024, 32768):
            _ask(device, RequestType.UNPLUG_ALL, 0)
            step = BLOCKS // runs
            for first in range(0, BLOCKS, step):
                # Runs end in a gap of one block; a request names at most 65,535.
                _ask(device, RequestType.PLUG, first, step - 1)
            log.take()
            gaps = range(step - 1, BLOCKS, step)
            plug, unplug = _measure(device, [gaps[number * len(gaps) // SAMPLE] for number in range(SAMPLE)])
            print(f"{runs:>7} runs{plug * 1e6:>11.0f} µs{unplug * 1e6:>11.0f} µs")


def _measure(device: VirtioMem, blocks: Iterable[int]) -> tuple[float, float]:
    """Median seconds to plug and to unplug one of blocks, all of which are unplugged."""
    plugs, unplugs = [], []
    for block in blocks:
        plugs.append(_ask(device, RequestType.PLUG, block))
        unplugs.append(_ask(device, RequestType.UNPLUG, block))
    return statistics.median(plugs), statistics.median(unplugs)


def _ask(device: VirtioMem, kind: RequestType, block: int, count: int = 1) -> float:
    request = bytes(Request(kind, ADDRESS + block * BLOCK, count))
    start = time.perf_counter()
    answer = device.handle(request)
    if any(answer):
        raise SystemExit(f"{kind.name} of block {block} was answered {answer.hex()}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
