"""The block map of a region, drawn with characters."""

from __future__ import annotations

from collections.abc import Iterable

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(plugged: Iterable[tuple[int, int]], size: int, width: int = 64) -> str:
    """Draw size bytes in width characters, each as full as its part of the bytes is plugged.

    plugged: offset and size in bytes of each plugged run. A part of which anything is plugged shows at least a sliver,
    and a part of which anything is unplugged is never full.
    """
    filled = [0.0] * width
    for offset, length in plugged:
        first = offset * width // size
        last = -(-(offset + length) * width // size)
        for cell in range(first, last):
            start, end = cell * size / width, (cell + 1) * size / width
            filled[cell] += max(0.0, min(end, offset + length) - max(start, offset)) / (size / width)
    return "".join(_EIGHTHS[_level(share)] for share in filled)


def _level(share: float) -> int:
    if share <= 0:
        return 0
    if share >= 1 - 1e-9:
        return 8
    return min(max(round(share * 8), 1), 7)
