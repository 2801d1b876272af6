"""Memory that devices can reach."""

from pyvfio.memory.memory import HUGE_PAGE_SIZE, Memory, MemoryKind
from pyvfio.memory.shared import SharedMemory
from pyvfio.memory.target import DmaTarget, MemoryUser

__all__ = [
    "HUGE_PAGE_SIZE",
    "DmaTarget",
    "Memory",
    "MemoryKind",
    "MemoryUser",
    "SharedMemory",
]
