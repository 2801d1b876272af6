"""A simulated kernel: VFIO for whoever has no IOMMU, and for tests."""

from pyvfio.sim.devices import Edu, PciFunction
from pyvfio.sim.kernel import SimKernel
from pyvfio.sim.machine import DmaFault
from pyvfio.sim.process import FatalSignal
from pyvfio.sim.vfio import DmaMapping

__all__ = ["DmaFault", "DmaMapping", "Edu", "FatalSignal", "PciFunction", "SimKernel"]
