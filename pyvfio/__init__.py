"""VFIO for Python: containers, groups, devices, regions, interrupts and DMA mappings of the Linux kernel."""

from pyvfio.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.cdev import CdevDevice
from pyvfio.container import Container, IommuInfo, IommuType
from pyvfio.device import Device, DeviceFlags, DeviceInfo, PciAtomics
from pyvfio.dirty import DirtyBitmap, DirtyTracking
from pyvfio.display import Display, DrmPlaneType, GfxPlane, GfxPlaneType
from pyvfio.dma_logging import DmaLogging
from pyvfio.driver_data import (
    AmdGuest,
    ArmSmmuv3Invalidation,
    ArmSmmuv3Stage1,
    DriverData,
    RawData,
    VtdInvalidation,
    VtdStage1,
    VtdStage1Flags,
)
from pyvfio.edid import Edid
from pyvfio.errors import (
    AlreadyMapped,
    ClosedError,
    DeviceBusy,
    DeviceNotBound,
    FeatureUnsupported,
    GroupBusy,
    GroupNotViable,
    HostNeedsDevice,
    InvalidArgument,
    InvalidationRefused,
    MappingLimitReached,
    MemlockExceeded,
    MemoryUnavailable,
    NoIommuError,
    NotMapped,
    OutsideIovaRanges,
    ShortUnmap,
    StillMapped,
    VfioError,
    VfTokenRefused,
)
from pyvfio.eventfd import EventFd
from pyvfio.fault_queue import FaultPermission, FaultQueue, FaultResponse, PageFault
from pyvfio.features import Feature, FeatureAccess, Features
from pyvfio.group import Group
from pyvfio.hw_info import HardwareCapabilities, HardwareInfo
from pyvfio.hw_page_table import HwPageTable
from pyvfio.hw_queue import HwQueue
from pyvfio.ioas import Ioas, IoasInfo
from pyvfio.ioeventfd import IoEventFd
from pyvfio.iommufd import Iommufd, RlimitMode
from pyvfio.iommufd_device import IommufdDevice
from pyvfio.iova import Fit, IovaAllocator
from pyvfio.irq import InterruptFlags, InterruptIndex, InterruptInfo, Interrupts
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.memory import Memory, MemoryKind
from pyvfio.migration import Migration, MigrationKinds, MigrationState, MigrationStream, PrecopyInfo
from pyvfio.nested_page_table import NestedPageTable
from pyvfio.page_table_dirty import PageTableDirtyTracking
from pyvfio.pci import ConfigSpace, PciCommand, PciStatus
from pyvfio.pci_capabilities import Msi, Msix, PciCapability, PciExpress, PowerManagement, Sriov
from pyvfio.region import Region, RegionIndex
from pyvfio.region_info import MmapArea, RegionFlags, RegionInfo, RegionType
from pyvfio.registers import Field, Register, Registers
from pyvfio.reset import AffectedDevice
from pyvfio.shared_memory import SharedMemory
from pyvfio.vdevice import Vdevice
from pyvfio.viommu import Viommu
from pyvfio.viommu_pages import ViommuPages
from pyvfio.virtual_events import VirtualEvent, VirtualEventQueue

__all__ = [
    "Access",
    "AddressSpace",
    "AffectedDevice",
    "AlreadyMapped",
    "AmdGuest",
    "ArmSmmuv3Invalidation",
    "ArmSmmuv3Stage1",
    "CdevDevice",
    "ClosedError",
    "ConfigSpace",
    "Container",
    "Device",
    "DeviceBusy",
    "DeviceFlags",
    "DeviceInfo",
    "DeviceNotBound",
    "DirtyBitmap",
    "DirtyTracking",
    "Display",
    "DmaLogging",
    "DriverData",
    "DrmPlaneType",
    "Edid",
    "EventFd",
    "FaultPermission",
    "FaultQueue",
    "FaultResponse",
    "Feature",
    "FeatureAccess",
    "FeatureUnsupported",
    "Features",
    "Field",
    "Fit",
    "GfxPlane",
    "GfxPlaneType",
    "Group",
    "GroupBusy",
    "GroupNotViable",
    "HardwareCapabilities",
    "HardwareInfo",
    "HostNeedsDevice",
    "HwPageTable",
    "HwQueue",
    "InterruptFlags",
    "InterruptIndex",
    "InterruptInfo",
    "Interrupts",
    "InvalidArgument",
    "InvalidationRefused",
    "IoEventFd",
    "Ioas",
    "IoasInfo",
    "IommuInfo",
    "IommuType",
    "Iommufd",
    "IommufdDevice",
    "IovaAllocator",
    "IovaRange",
    "Kernel",
    "LinuxKernel",
    "MappedRun",
    "MappingLimitReached",
    "MemlockExceeded",
    "Memory",
    "MemoryKind",
    "MemoryUnavailable",
    "Migration",
    "MigrationKinds",
    "MigrationState",
    "MigrationStream",
    "MmapArea",
    "Msi",
    "Msix",
    "NestedPageTable",
    "NoIommuError",
    "NotMapped",
    "OutsideIovaRanges",
    "PageFault",
    "PageTableDirtyTracking",
    "PciAtomics",
    "PciCapability",
    "PciCommand",
    "PciExpress",
    "PciStatus",
    "PowerManagement",
    "PrecopyInfo",
    "RawData",
    "Region",
    "RegionFlags",
    "RegionIndex",
    "RegionInfo",
    "RegionType",
    "Register",
    "Registers",
    "RlimitMode",
    "SharedMemory",
    "ShortUnmap",
    "Sriov",
    "StillMapped",
    "Vdevice",
    "VfTokenRefused",
    "VfioError",
    "Viommu",
    "ViommuPages",
    "VirtualEvent",
    "VirtualEventQueue",
    "VtdInvalidation",
    "VtdStage1",
    "VtdStage1Flags",
]
