"""drivers/vfio: containers, groups and devices of the kernel."""

from pyvfio.sim.vfio.container import ContainerState
from pyvfio.sim.vfio.mappings import DmaMapping
from pyvfio.sim.vfio.nodes import VfioNodes

__all__ = ["ContainerState", "DmaMapping", "VfioNodes"]
