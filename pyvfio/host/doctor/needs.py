"""What the host is to be ready for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes to be mapped for DMA in blocks of block_size bytes, in each of address_spaces; 0: nothing in particular.

    huge_page_size: of the pages that back them, in bytes; None for ordinary pages.
    """

    memory: int = 0
    block_size: int = 2 << 20
    address_spaces: int = 1
    huge_page_size: int | None = None
