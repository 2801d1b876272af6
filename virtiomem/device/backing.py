"""What the memory of a region has to do with the size of its blocks."""

from __future__ import annotations

import logging

from pyvfio.kernel import host_page_size, transparent_huge_page_size
from pyvfio.memory import Memory, MemoryKind
from virtiomem.device.config import default_block_size
from virtiomem.discard import Backing

_log = logging.getLogger(__package__)


def smallest_block_size(memory: Backing) -> int:
    """The smallest block worth having of this memory, in bytes."""
    kernel = memory.kernel if isinstance(memory, Memory) else None
    return default_block_size(memory.page_size, transparent_huge_page_size(kernel), host_page_size())


def warn_of_shared_pages(name: str, memory: Backing, block_size: int) -> None:
    """Tell the log if blocks of so many bytes share huge pages with their neighbours. name: the device's."""
    if isinstance(memory, Memory) and memory.kind is MemoryKind.THP and block_size < smallest_block_size(memory):
        _log.warning("%s: blocks are smaller than huge pages: neighbours of a plugged block take memory too", name)
