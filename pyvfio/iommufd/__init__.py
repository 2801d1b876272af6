"""iommufd: address spaces, devices by their own nodes, page tables, and what a virtual IOMMU is made of."""

from pyvfio.iommufd.addresses import IoasInfo
from pyvfio.iommufd.cdev import CdevDevice, cdev_node
from pyvfio.iommufd.device import IommufdDevice
from pyvfio.iommufd.driver_data import (
    AmdGuest,
    ArmSmmuv3Invalidation,
    ArmSmmuv3Stage1,
    DriverData,
    RawData,
    VtdInvalidation,
    VtdStage1,
    VtdStage1Flags,
)
from pyvfio.iommufd.fault_queue import FaultPermission, FaultQueue, FaultResponse, PageFault
from pyvfio.iommufd.hw_info import HardwareCapabilities, HardwareInfo
from pyvfio.iommufd.hw_queue import HwQueue
from pyvfio.iommufd.ioas import Ioas
from pyvfio.iommufd.iommufd import Iommufd, RlimitMode
from pyvfio.iommufd.nested_page_table import NestedPageTable
from pyvfio.iommufd.object import Translation
from pyvfio.iommufd.page_table import HwPageTable
from pyvfio.iommufd.page_table_dirty import PageTableDirtyTracking
from pyvfio.iommufd.shared_ioas import SharedIoas
from pyvfio.iommufd.viommu import Vdevice, Viommu
from pyvfio.iommufd.viommu_pages import ViommuPages
from pyvfio.iommufd.virtual_events import VirtualEvent, VirtualEventQueue

__all__ = [
    "AmdGuest",
    "ArmSmmuv3Invalidation",
    "ArmSmmuv3Stage1",
    "CdevDevice",
    "DriverData",
    "FaultPermission",
    "FaultQueue",
    "FaultResponse",
    "HardwareCapabilities",
    "HardwareInfo",
    "HwPageTable",
    "HwQueue",
    "Ioas",
    "IoasInfo",
    "Iommufd",
    "IommufdDevice",
    "NestedPageTable",
    "PageFault",
    "PageTableDirtyTracking",
    "RawData",
    "RlimitMode",
    "SharedIoas",
    "Translation",
    "Vdevice",
    "Viommu",
    "ViommuPages",
    "VirtualEvent",
    "VirtualEventQueue",
    "VtdInvalidation",
    "VtdStage1",
    "VtdStage1Flags",
    "cdev_node",
]
