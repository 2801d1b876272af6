"""Sizes as people write them, at the edge of the program only."""

from __future__ import annotations

import re

from pyvfio.texts import shortened

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(0x[0-9a-f](?:_?[0-9a-f])*|[0-9]{1,4000})[ \t]*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_LARGEST = (1 << 64) - 1


def parse_size(text: str) -> int:
    """The bytes of a size: "2M", "1 GiB", "4096" or "0x20_0000". Raises ValueError, also for more than 64 bits."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{shortened(text)} is not a size: write 2M, 1G or a number of bytes")
    number, unit = match.groups()
    size = int(number, 16 if number[:2].lower() == "0x" else 10) * _UNITS[unit.upper()]
    if size > _LARGEST:
        raise ValueError(f"{shortened(text)} is too large for a size: it has 64 bits at most")
    return size


def format_size(size: int) -> str:
    """The exact size in the largest unit that divides it: "100 MiB", "4097 bytes"."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}iB"
    return f"{size} bytes"


def size_in_words(size: int) -> str:
    """The size to three digits, rounded down, where nobody needs it exactly: "23.4 GiB"."""
    for unit in ("T", "G", "M", "K"):
        number = size / _UNITS[unit]
        if number >= 1:
            digits = 0 if number >= 100 else 1
            rounded = int(number * 10**digits) / 10**digits
            return f"{rounded:.{digits}f}".removesuffix(".0") + f" {unit}iB"
    return f"{size} bytes"
