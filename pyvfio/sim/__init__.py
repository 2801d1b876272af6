"""A simulated kernel: VFIO for whoever has no IOMMU, and for tests."""

from pyvfio.sim.device import DmaFault
from pyvfio.sim.edu import Edu
from pyvfio.sim.kernel import SimKernel
from pyvfio.sim.mappings import DmaMapping
from pyvfio.sim.pci import PciFunction

__all__ = ["DmaFault", "DmaMapping", "Edu", "PciFunction", "SimKernel"]
