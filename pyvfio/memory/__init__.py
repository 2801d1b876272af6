"""Memory that devices can reach."""

from pyvfio.memory.memory import HUGE_PAGE_SIZE, Memory, MemoryKind, MemoryUser
from pyvfio.memory.shared import SharedMemory

__all__ = [
    "HUGE_PAGE_SIZE",
    "Memory",
    "MemoryKind",
    "MemoryUser",
    "SharedMemory",
]
