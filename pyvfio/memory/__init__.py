"""Memory that devices can reach."""

from pyvfio.memory.kinds import HUGE_PAGE_SIZE, MemoryKind
from pyvfio.memory.memory import Memory, MemoryUser
from pyvfio.memory.shared import SharedMemory

__all__ = [
    "HUGE_PAGE_SIZE",
    "Memory",
    "MemoryKind",
    "MemoryUser",
    "SharedMemory",
]
