"""Memory that devices can reach."""

from pyvfio.memory.kinds import HUGE_PAGE_SIZE, MemoryKind
from pyvfio.memory.memory import Memory
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
