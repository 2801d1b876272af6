"""Memory: what processes have mapped, and the pages of it that devices may reach."""

from pyvfio.sim.mm.pages import PAGE, PageTracker
from pyvfio.sim.mm.pin import Pin, RegisterPin

__all__ = ["PAGE", "PageTracker", "Pin", "RegisterPin"]
