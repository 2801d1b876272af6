"""Needs: what the host is to be ready for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Needs:
    """What the host is to be ready for.

    memory: how many bytes are to be mapped for DMA; 0 for no particular amount. block_size: the bytes of each mapping.
    address_spaces: how many address spaces the memory is to be mapped in. huge_page_size: the bytes of the pages of the
    memory; None for ordinary pages.
    """

    memory: int = 0
    block_size: int = 2 << 20
    address_spaces: int = 1
    huge_page_size: int | None = None
