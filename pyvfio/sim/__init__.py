"""A simulated kernel: VFIO for whoever has no IOMMU, and for tests."""

from pyvfio.sim.devices.edu import Edu
from pyvfio.sim.kernel import SimKernel
from pyvfio.sim.sysfs import PciFunction
from pyvfio.sim.vfio.device import DmaFault
from pyvfio.sim.vfio.mappings import DmaMapping

__all__ = ["DmaFault", "DmaMapping", "Edu", "PciFunction", "SimKernel"]
