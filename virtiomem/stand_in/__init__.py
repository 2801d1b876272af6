"""A manager whose guest is a stand-in of this process."""

from virtiomem.stand_in import demo
from virtiomem.stand_in.manager import Manager, ManagerOptions

__all__ = [
    "Manager",
    "ManagerOptions",
    "demo",
]
