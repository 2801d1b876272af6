"""drivers/iommu/iommufd, by its file names: an open /dev/iommu, and the devices bound to it."""

from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.device import BoundDevice, FunctionDevice
from pyvfio.sim.iommufd.io_pagetable import IoasState
from pyvfio.sim.iommufd.main import IommufdFile

__all__ = ["BoundDevice", "FunctionDevice", "IoasState", "IommufdContext", "IommufdFile"]
