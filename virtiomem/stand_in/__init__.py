"""A manager with a stand-in for the guest in its own process, and the demonstration."""

from virtiomem.stand_in import demo
from virtiomem.stand_in.manager import Manager, ManagerOptions

__all__ = [
    "Manager",
    "ManagerOptions",
    "demo",
]
