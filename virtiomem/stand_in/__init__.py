"""A manager whose guest is a stand-in of this process."""

from virtiomem.stand_in.exercise import Exercise
from virtiomem.stand_in.manager import Manager, ManagerOptions

__all__ = [
    "Exercise",
    "Manager",
    "ManagerOptions",
]
