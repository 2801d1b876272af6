"""Structs with a chain of capabilities behind them, as vfio_info_cap_add makes it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<HHI")


def capability_chain(head: int, bodies: Sequence[tuple[int, int, bytes]], alignment: int) -> bytes:
    """The capabilities as (id, version, what follows the header), in a chain that begins at offset head of the struct.

    alignment: what each is padded to, in bytes: 8 since Linux 6.6, 4 before.
    """
    chain = b""
    for index, (number, version, body) in enumerate(bodies):
        padded = body + bytes(-len(body) % alignment)
        following = head + len(chain) + _HEADER.size + len(padded)
        chain += _HEADER.pack(number, version, following if index + 1 < len(bodies) else 0) + padded
    return chain
