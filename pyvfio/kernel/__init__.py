"""Kernel, which every system call goes through, and what stands directly on it."""

from pyvfio.kernel.barrier import has_memory_barrier, is_strongly_ordered, memory_barrier
from pyvfio.kernel.buffers import octets_of
from pyvfio.kernel.descriptor import Descriptor
from pyvfio.kernel.eventfd import EventFd, Stream, wait_for_any
from pyvfio.kernel.files import (
    exists,
    is_registered,
    link_name,
    link_number,
    linux_release,
    names_in,
    read_bytes,
    read_number,
    read_text,
    text_or_empty,
    write_text,
)
from pyvfio.kernel.host_memory import HostMemory, host_memory
from pyvfio.kernel.limits import (
    DMA_ENTRY_LIMIT,
    HugePages,
    Memlock,
    dma_entry_limit,
    host_page_size,
    huge_page_sizes,
    huge_pages,
    huge_pages_by_node,
    memlock,
    memlock_if_known,
    pool_name,
    transparent_huge_page_size,
)
from pyvfio.kernel.placement import numa_nodes
from pyvfio.kernel.query import Capability, chain, query
from pyvfio.kernel.seam import IoctlArgument, Kernel, LinuxKernel
from pyvfio.kernel.timeouts import Deadline
from pyvfio.kernel.waitable import Waitable
from pyvfio.kernel.window import Window, WindowReleased

__all__ = [
    "DMA_ENTRY_LIMIT",
    "Capability",
    "Deadline",
    "Descriptor",
    "EventFd",
    "HostMemory",
    "HugePages",
    "IoctlArgument",
    "Kernel",
    "LinuxKernel",
    "Memlock",
    "Stream",
    "Waitable",
    "Window",
    "WindowReleased",
    "chain",
    "dma_entry_limit",
    "exists",
    "has_memory_barrier",
    "host_memory",
    "host_page_size",
    "huge_page_sizes",
    "huge_pages",
    "huge_pages_by_node",
    "is_registered",
    "is_strongly_ordered",
    "link_name",
    "link_number",
    "linux_release",
    "memlock",
    "memlock_if_known",
    "memory_barrier",
    "names_in",
    "numa_nodes",
    "octets_of",
    "pool_name",
    "query",
    "read_bytes",
    "read_number",
    "read_text",
    "text_or_empty",
    "transparent_huge_page_size",
    "wait_for_any",
    "write_text",
]
