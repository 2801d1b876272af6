"""linux/iommufd.h, up to Linux 7.3; flags stand beside the struct they belong to."""

# ruff: noqa: F403
from pyvfio.abi.iommufd.hw_info import *
from pyvfio.abi.iommufd.hwpt import *
from pyvfio.abi.iommufd.ioas import *
from pyvfio.abi.iommufd.viommu import *
