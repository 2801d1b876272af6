"""Record what a stock guest asks: python -m tests.support.guest.trace KERNEL FILE.

tests/data/README.md says what is there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from vmlib.kernels import image

from tests.support.guest.stage import Stage

MIB = 1 << 20
SIZES = (128, 258, 384, 130, 0, 256)


def main() -> None:
    kernel, path = sys.argv[1:]
    with (
        Path(path).open("w") as trace,
        tempfile.TemporaryDirectory() as directory,
        Stage(Path(directory), print, record=trace) as stage,
        stage.guest(image(kernel)) as guest,
    ):
        for size in SIZES:
            stage.reach(guest, size * MIB)
        first = len(stage.exchanges)
        guest.reboot()
        stage.arrive(guest, 0, first)
        stage.reach(guest, 0)
        print("\n".join(stage.words))


if __name__ == "__main__":
    main()
