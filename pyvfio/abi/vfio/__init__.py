"""linux/vfio.h, up to Linux 7.3; flags stand below the struct they belong to.

Negative numbers of the header are as the unsigned 32-bit field holds them.
"""

# ruff: noqa: F403
from pyvfio.abi.vfio.container import *
from pyvfio.abi.vfio.container import (
    __VFIO_RESERVED_TYPE1_NESTING_IOMMU as __VFIO_RESERVED_TYPE1_NESTING_IOMMU,
)
from pyvfio.abi.vfio.device import *
from pyvfio.abi.vfio.features import *
from pyvfio.abi.vfio.region import *
from pyvfio.abi.vfio.spapr import *
from pyvfio.abi.vfio.type1 import *
