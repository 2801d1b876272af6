"""What the memory of a region has to do with the size of its blocks."""

from __future__ import annotations

import logging

from pyvfio.kernel import host_page_size, transparent_huge_page_size
from pyvfio.memory import Memory, MemoryKind
from virtiomem.device.config import (
    Config,
    check_block_size,
    check_node_id,
    check_region,
    check_requested_size,
    default_block_size,
)
from virtiomem.discard import Backing

_log = logging.getLogger(__package__)


def smallest_block_size(memory: Backing) -> int:
    """The smallest block worth having of this memory, in bytes."""
    kernel = memory.kernel if isinstance(memory, Memory) else None
    return default_block_size(memory.page_size, transparent_huge_page_size(kernel), host_page_size())


def layout(
    memory: Backing,
    address: int,
    region_offset: int,
    region_size: int | None,
    block_size: int | None,
    requested_size: int,
    node_id: int | None,
) -> Config:
    """The config space of a device over this part of memory, with nothing plugged, and the usable region still open.

    The arguments are VirtioMem's. Raises InvalidArgument, which names what would fit.
    """
    region_size = memory.size - region_offset if region_size is None else region_size
    block_size = smallest_block_size(memory) if block_size is None else block_size
    check_block_size(block_size, memory.page_size)
    check_region(address, region_offset, region_size, block_size, memory.size)
    check_requested_size(requested_size, region_size, block_size)
    check_node_id(node_id)
    return Config(block_size, node_id or 0, address, region_size, 0, 0, requested_size)


def warn_of_shared_pages(name: str, memory: Backing, block_size: int) -> None:
    """Tell the log if blocks of so many bytes share huge pages with their neighbours. name: the device's."""
    if isinstance(memory, Memory) and memory.kind is MemoryKind.THP and block_size < smallest_block_size(memory):
        _log.warning("%s: blocks are smaller than huge pages: neighbours of a plugged block take memory too", name)
